//! `sconv` for AVX2 + FMA. See the module above for the loop nest; what is done to it here:
//!
//! 1. A tile of 6 pixels by 16 channels stays in registers: 12 accumulators, 2 weight vectors and
//!    1 broadcast are 15 of 16 ymm. 12 independent chains cover the FMA's latency (4 cycles, 2 per
//!    cycle); 8 loads per 12 FMAs stay below the load ports' 2 per cycle.
//! 2. The k-loop is unrolled over a tap's 8 channels, so their addresses are immediates.
//! 3. Tiles are 6 high and end in 5s and 4s ([`row_tiles`](super::row_tiles)), never in a thin one.
//! 4. Each tile prefetches its share of the next panel's weights into L2.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{Kernel, PanelArgs, row_tiles};
use crate::isa::Isa;
use crate::layout::{C_BLOCK, OC_PANEL};

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel::new("avx2-sconv-6x16", Isa::Avx2, panel);

/// # Safety
/// As [`Kernel::run_raw`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn panel(args: &PanelArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { if args.tap_len == C_BLOCK { pixels::<C_BLOCK>(args) } else { pixels::<0>(args) } }
}

/// All tiles of the run. `TAP` is the tap length where it is known, else 0.
///
/// # Safety
/// As [`panel`].
#[target_feature(enable = "avx2,fma")]
unsafe fn pixels<const TAP: usize>(args: &PanelArgs) {
    let [sixes, fives, fours, rest] = row_tiles(args.nb_pixels);
    let nb_tiles = sixes + fives + fours + usize::from(rest > 0);
    let k = args.nb_taps * args.tap_len;
    // 64-byte lines of the next panel per tile.
    let lines = k.div_ceil(nb_tiles.max(1));
    let mut next = args.next_weights;
    let mut m = 0;
    let mut fetch = || {
        for line in 0..lines {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * OC_PANEL).cast());
        }
        next = next.wrapping_add(lines * OC_PANEL);
    };
    // SAFETY: the tiles partition `0..nb_pixels`.
    unsafe {
        for _ in 0..sixes {
            fetch();
            tile::<6, TAP>(args, m);
            m += 6;
        }
        for _ in 0..fives {
            fetch();
            tile::<5, TAP>(args, m);
            m += 5;
        }
        for _ in 0..fours {
            fetch();
            tile::<4, TAP>(args, m);
            m += 4;
        }
        match rest {
            3 => tile::<3, TAP>(args, m),
            2 => tile::<2, TAP>(args, m),
            1 => tile::<1, TAP>(args, m),
            _ => {}
        }
    }
}

/// One register tile: pixels `m..m + ROWS`.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn tile<const ROWS: usize, const TAP: usize>(args: &PanelArgs, m: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const f32; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let mut acc: [[__m256; 2]; ROWS] = if args.first {
            let bias = [_mm256_loadu_ps(args.bias), _mm256_loadu_ps(args.bias.add(8))];
            [bias; ROWS]
        } else {
            let partial = args.partial.add(m * OC_PANEL);
            from_fn(|r| {
                let p = partial.add(r * OC_PANEL);
                [_mm256_load_ps(p), _mm256_load_ps(p.add(8))]
            })
        };
        let mut weights = args.weights;
        for t in 0..args.nb_taps {
            let tap = *args.taps.add(t) as usize;
            if TAP > 0 {
                for k in 0..TAP {
                    step(&mut acc, &rows, tap + k, weights.add(k * OC_PANEL));
                }
                weights = weights.add(TAP * OC_PANEL);
            } else {
                for k in 0..args.tap_len {
                    step(&mut acc, &rows, tap + k, weights);
                    weights = weights.add(OC_PANEL);
                }
            }
        }
        if !args.last {
            for r in 0..ROWS {
                let p = args.partial.add((m + r) * OC_PANEL);
                _mm256_store_ps(p, acc[r][0]);
                _mm256_store_ps(p.add(8), acc[r][1]);
            }
            return;
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
            let [v0, v1] = acc[r].map(|v| _mm256_min_ps(max, _mm256_max_ps(min, v)));
            let dst = args.dst.add(*args.dst_pixels.add(m + r) as usize);
            _mm256_storeu_ps(dst, v0);
            if args.nb_blocks > 1 {
                _mm256_storeu_ps(dst.add(args.dst_block_stride), v1);
            }
        }
    }
}

/// `acc[r] += rows[r][k] * weights[0..16]`.
///
/// # Safety
/// `rows[r] + k` and 16 elements of `weights` (32-byte aligned) are readable.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn step<const ROWS: usize>(
    acc: &mut [[__m256; 2]; ROWS],
    rows: &[*const f32; ROWS],
    k: usize,
    weights: *const f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let w0 = _mm256_load_ps(weights);
        let w1 = _mm256_load_ps(weights.add(8));
        for r in 0..ROWS {
            let x = _mm256_broadcast_ss(&*rows[r].add(k));
            acc[r][0] = _mm256_fmadd_ps(x, w0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(x, w1, acc[r][1]);
        }
    }
}
