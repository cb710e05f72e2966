//! `sconv` and `hconv` for AVX2 + FMA + F16C. See the module above for the loop nest; what is done to it here:
//!
//! 1. A tile of 6 pixels by 16 channels stays in registers: 12 accumulators, 2 weight vectors and
//!    1 broadcast are 15 of 16 ymm. 12 independent chains cover the FMA's latency (4 cycles, 2 per
//!    cycle); 8 loads per 12 FMAs stay below the load ports' 2 per cycle.
//! 2. The k-loop is unrolled within a tap, so that its addresses are immediates.
//! 3. Tiles are 6 high and end in 5s and 4s (`row_tiles`), never in a thin one.
//! 4. The first tiles prefetch the next weights into L2, a line at a time.
//! 5. A tile prefetches its residual before its sums, and the pixels of the next tile tap by tap: they lie in as many
//!    planes as there are taps, too many streams for the hardware's own prefetch.
//! 6. Half weights are widened as they are loaded (F16C), into the same two registers; the conversions
//!    run on other ports than FMAs do.

use crate::arrays::{from_fn, map};
use std::arch::asm;
use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, MR, PanelArgs, row_tiles};
use crate::isa::Isa;
use crate::layout::{C_BLOCK, OC_PANEL};

/// The registry's entry for f32 weights.
pub const KERNEL: Kernel = Kernel::new("avx2-sconv-6x16", Isa::Avx2, panel::<f32>);
/// The registry's entry for half weights.
pub const HALF: Kernel<f16> = Kernel::new("avx2-hconv-6x16", Isa::Avx2, panel::<f16>);

/// An element type of weights.
trait Weight: Sized {
    /// Elements per cache line.
    const LINE: usize = 64 / size_of::<Self>();
    /// Whether a tap of 8 channels is unrolled. Not where weights are converted: the compiler would
    /// convert a whole tap's first, and spill.
    const UNROLLED: bool;

    /// 8 weights.
    ///
    /// # Safety
    /// As [`panel`]; `p` is readable for 8 elements, and aligned to as many.
    unsafe fn load(p: *const Self) -> __m256;
}

impl Weight for f32 {
    const UNROLLED: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_load_ps(p) }
    }
}

impl Weight for f16 {
    const UNROLLED: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_load_si128(p.cast())) }
    }
}

/// # Safety
/// As [`Kernel::run_raw`], on a CPU with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel<W: Weight>(args: &PanelArgs<W>) {
    // SAFETY: the contract is the caller's.
    unsafe {
        match (args.tap_len == C_BLOCK, W::UNROLLED, args.nb_pixels) {
            // One pass over the weights, at the speed of memory: the hardware's own prefetch is best.
            (true, true, 0..MR) => pixels::<W, C_BLOCK, 0>(args),
            (_, _, 0..MR) => pixels::<W, 0, 0>(args),
            (true, true, MR..FEW_PIXELS) => pixels::<W, C_BLOCK, 2>(args),
            (true, true, _) => pixels::<W, C_BLOCK, 1>(args),
            // Rows of an image's windows are rarely few, and a tap of half weights has few lines.
            _ => pixels::<W, 0, 1>(args),
        }
    }
}

/// Pixels of 8 tiles. A tap of 8 channels has 8 lines of 16 f32 weights, of half weights 4: the prefetch of the next
/// ones is spread over as many tiles, a line per tap in each, and with fewer pixels over half as many, two lines
/// in each. Fetched in a burst they would exhaust the core's outstanding misses and stall the tile.
const FEW_PIXELS: usize = 8 * MR;

/// All tiles of the run. `TAP` is the tap length where it is known, else 0; `FETCH` the lines of the next weights
/// that the first tiles prefetch with each tap.
///
/// # Safety
/// As [`panel`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pixels<W: Weight, const TAP: usize, const FETCH: usize>(args: &PanelArgs<W>) {
    let [sixes, fives, fours, rest] = row_tiles(args.nb_pixels);
    let mut m = 0;
    let mut next = Fetch {
        line: args.next_weights,
        step: W::LINE,
        tiles: (C_BLOCK * OC_PANEL / W::LINE).checked_div(FETCH).unwrap_or(0),
    };
    // SAFETY: the tiles partition `0..nb_pixels`.
    unsafe {
        // Fewer pixels than a tile are not prefetched for.
        for _ in 0..if FETCH > 0 { sixes } else { 0 } {
            tile::<W, 6, TAP, FETCH>(args, m, &mut next);
            m += 6;
        }
        for _ in 0..fives {
            tile::<W, 5, TAP, FETCH>(args, m, &mut next);
            m += 5;
        }
        for _ in 0..fours {
            tile::<W, 4, TAP, FETCH>(args, m, &mut next);
            m += 4;
        }
        match rest {
            3 => tile::<W, 3, TAP, FETCH>(args, m, &mut next),
            // 7 pixels are 4 and 3.
            2 if FETCH == 0 => tile::<W, 2, TAP, FETCH>(args, m, &mut next),
            1 if FETCH == 0 => tile::<W, 1, TAP, FETCH>(args, m, &mut next),
            _ => {}
        }
    }
}

/// Where the prefetch of the next weights is.
struct Fetch<W> {
    line: *const W,
    /// Elements to the next line; 0 once all were fetched (the same line again costs nothing).
    step: usize,
    /// Tiles that still fetch.
    tiles: usize,
}

/// Steps of k that are unrolled within a tap; all eight are more than the compiler unrolls.
const UNROLLED_STEPS: usize = 4;

/// One register tile: pixels `m..m + ROWS`.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<W: Weight, const ROWS: usize, const TAP: usize, const FETCH: usize>(
    args: &PanelArgs<W>,
    m: usize,
    next: &mut Fetch<W>,
) {
    if next.tiles == 0 {
        next.step = 0;
    }
    next.tiles = next.tiles.saturating_sub(1);
    let (mut line, step_to_next) = (next.line, next.step);
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const f32; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let mut acc: [[__m256; 2]; ROWS] = if args.start.is_null() {
            let bias = [_mm256_loadu_ps(args.bias), _mm256_loadu_ps(args.bias.add(8))];
            [bias; ROWS]
        } else {
            from_fn(|r| load_sums(args.start, m + r))
        };
        if !args.residual.is_null() && !args.dst.is_null() {
            // A line holds two pixels.
            for r in (0..ROWS).step_by(2) {
                let res = args.residual.add(*args.res_pixels.add(m + r) as usize);
                _mm_prefetch::<_MM_HINT_T0>(res.cast());
                _mm_prefetch::<_MM_HINT_T0>(res.wrapping_add(args.res_block_stride).cast());
            }
        }
        let mut weights = args.weights;
        let (taps, nb_taps, tap_len) = (args.taps, args.nb_taps, args.tap_len);
        let mut fetch = || {
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
            line = line.wrapping_add(step_to_next);
        };
        for t in 0..nb_taps {
            let mut tap = *taps.add(t) as usize;
            for _ in 0..FETCH {
                fetch();
            }
            if TAP > 0 && FETCH > 0 {
                // Where the next tile's pixels are if they follow these, as most do.
                let ahead = rows[0].wrapping_add(tap + MR * C_BLOCK);
                for line in 0..MR * C_BLOCK / f32::LINE {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * f32::LINE).cast());
                }
            }
            if TAP > 0 {
                const { assert!(TAP.is_multiple_of(UNROLLED_STEPS)) };
                for _ in 0..TAP / UNROLLED_STEPS {
                    for k in 0..UNROLLED_STEPS {
                        step(&mut acc, &rows, tap + k, weights.add(k * OC_PANEL));
                    }
                    tap += UNROLLED_STEPS;
                    weights = weights.add(UNROLLED_STEPS * OC_PANEL);
                }
            } else {
                for k in 0..tap_len {
                    step(&mut acc, &rows, tap + k, weights);
                    weights = weights.add(OC_PANEL);
                }
            }
        }
        next.line = line;
        if !args.sums.is_null() {
            for r in 0..ROWS {
                let p = args.sums.add((m + r) * OC_PANEL);
                _mm256_store_ps(p, acc[r][0]);
                _mm256_store_ps(p.add(8), acc[r][1]);
            }
        }
        if args.dst.is_null() {
            return;
        }
        if !args.addend.is_null() {
            for r in 0..ROWS {
                let addend = load_sums(args.addend, m + r);
                acc[r][0] = _mm256_add_ps(acc[r][0], addend[0]);
                acc[r][1] = _mm256_add_ps(acc[r][1], addend[1]);
            }
        }
        if !args.residual.is_null() {
            for r in 0..ROWS {
                let res = args.residual.add(*args.res_pixels.add(m + r) as usize);
                acc[r][0] = _mm256_add_ps(acc[r][0], _mm256_loadu_ps(res));
                if args.nb_blocks > 1 {
                    let res = res.add(args.res_block_stride);
                    acc[r][1] = _mm256_add_ps(acc[r][1], _mm256_loadu_ps(res));
                }
            }
        }
        let (min, max) = (_mm256_set1_ps(args.clamp[0]), _mm256_set1_ps(args.clamp[1]));
        for r in 0..ROWS {
            // The second operand is returned when one is NaN: NaN passes through.
            let [v0, v1] = map(acc[r], |v| _mm256_min_ps(max, _mm256_max_ps(min, v)));
            let dst = args.dst.add(*args.dst_pixels.add(m + r) as usize);
            _mm256_storeu_ps(dst, v0);
            if args.nb_blocks > 1 {
                _mm256_storeu_ps(dst.add(args.dst_block_stride), v1);
            }
        }
    }
}

/// The sums of pixel `m`.
///
/// # Safety
/// `sums` has them, and is 32-byte aligned.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_sums(sums: *const f32, m: usize) -> [__m256; 2] {
    // SAFETY: the caller's.
    unsafe {
        let sums = sums.add(m * OC_PANEL);
        [_mm256_load_ps(sums), _mm256_load_ps(sums.add(8))]
    }
}

/// `acc[r] += rows[r][k] * weights[0..16]`.
///
/// # Safety
/// `rows[r] + k` and 16 elements of `weights` (aligned to 8 of them) are readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn step<W: Weight, const ROWS: usize>(
    acc: &mut [[__m256; 2]; ROWS],
    rows: &[*const f32; ROWS],
    k: usize,
    weights: *const W,
) {
    // SAFETY: the caller's.
    unsafe {
        let w0 = W::load(weights);
        let w1 = W::load(weights.add(8));
        for r in 0..ROWS {
            multiply_add(&mut acc[r], _mm256_broadcast_ss(&*rows[r].add(k)), [w0, w1]);
        }
    }
}

/// `acc += x * w`, and a fence: loads stay before or after it. Free to move them, the compiler hoists more of
/// them at once than there are registers, and spills.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(crate) fn multiply_add(acc: &mut [__m256; 2], x: __m256, w: [__m256; 2]) {
    let [a, b] = acc;
    // SAFETY: the instructions read and write the operands alone; without `nomem` the compiler moves no
    // access to memory across.
    unsafe {
        asm!(
            "vfmadd231ps {a}, {x}, {w0}",
            "vfmadd231ps {b}, {x}, {w1}",
            a = inout(ymm_reg) *a,
            b = inout(ymm_reg) *b,
            x = in(ymm_reg) x,
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            options(nostack, preserves_flags),
        );
    }
}
