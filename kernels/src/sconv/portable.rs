//! `sconv` and `hconv` for any CPU, on `wide`'s vectors.
//!
//! `wide` fixes its instruction set when it is compiled (SSE2 on x86-64, NEON on aarch64), so this is
//! the tier that runs everywhere. A tile is 6 pixels by 8 channels, half a panel: on 4-lane
//! hardware 12 accumulators, 2 weight vectors and 1 broadcast fit 16 registers. Multiply and add round separately.

use std::array::from_fn;

use half::f16;
use wide::f32x8;

use super::{Kernel, PanelArgs, row_tiles};
use crate::eltwise::clamp;
use crate::isa::Isa;
use crate::layout::{C_BLOCK, OC_PANEL};

/// The registry's entry for f32 weights.
pub const KERNEL: Kernel = Kernel::new("portable-sconv-6x8", Isa::Portable, panel::<f32>);
/// The registry's entry for half weights.
pub const HALF: Kernel<f16> = Kernel::new("portable-hconv-6x8", Isa::Portable, panel::<f16>);

/// An element type of weights.
trait Weight: Copy {
    /// The value in f32, exactly.
    fn widen(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// # Safety
/// As [`Kernel::run_raw`].
unsafe fn panel<W: Weight>(args: &PanelArgs<W>) {
    let [sixes, fives, fours, rest] = row_tiles(args.nb_pixels);
    // Both halves of a sum that is kept are needed; of a stored panel only what the tensor has.
    let nb_halves = if args.sums.is_null() { args.nb_blocks } else { 2 };
    for half in 0..nb_halves {
        let mut m = 0;
        // SAFETY: the tiles partition `0..nb_pixels`.
        unsafe {
            for _ in 0..sixes {
                tile::<W, 6>(args, m, half);
                m += 6;
            }
            for _ in 0..fives {
                tile::<W, 5>(args, m, half);
                m += 5;
            }
            for _ in 0..fours {
                tile::<W, 4>(args, m, half);
                m += 4;
            }
            match rest {
                3 => tile::<W, 3>(args, m, half),
                2 => tile::<W, 2>(args, m, half),
                1 => tile::<W, 1>(args, m, half),
                _ => {}
            }
        }
    }
}

/// One register tile: pixels `m..m + ROWS`, channels `8*half..8*half + 8` of the panel.
///
/// # Safety
/// As [`Kernel::run_raw`], `m + ROWS <= nb_pixels` and `half < 2`.
#[inline(always)]
unsafe fn tile<W: Weight, const ROWS: usize>(args: &PanelArgs<W>, m: usize, half: usize) {
    let column = half * C_BLOCK;
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const f32; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let mut acc: [f32x8; ROWS] = if args.start.is_null() {
            [load(args.bias.add(column)); ROWS]
        } else {
            from_fn(|r| load(args.start.add((m + r) * OC_PANEL + column)))
        };
        let mut weights = args.weights.add(column);
        for t in 0..args.nb_taps {
            let tap = *args.taps.add(t) as usize;
            for k in 0..args.tap_len {
                let w = f32x8::from(weights.cast::<[W; 8]>().read().map(W::widen));
                for r in 0..ROWS {
                    acc[r] += f32x8::splat(*rows[r].add(tap + k)) * w;
                }
                weights = weights.add(OC_PANEL);
            }
        }
        finish(args, &acc, m, half);
    }
}

/// What becomes of a tile's sums.
///
/// # Safety
/// As [`tile`], of as many rows as `acc` has.
#[inline(never)]
unsafe fn finish<W>(args: &PanelArgs<W>, acc: &[f32x8], m: usize, half: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        for (r, sum) in acc.iter().enumerate() {
            let at = (m + r) * OC_PANEL + half * C_BLOCK;
            if !args.sums.is_null() {
                store(args.sums.add(at), *sum);
            }
            if args.dst.is_null() || half >= args.nb_blocks {
                continue;
            }
            let mut v = *sum;
            if !args.addend.is_null() {
                v += load(args.addend.add(at));
            }
            if !args.residual.is_null() {
                let offset = *args.res_pixels.add(m + r) as usize + half * args.res_block_stride;
                v += load(args.residual.add(offset));
            }
            let offset = *args.dst_pixels.add(m + r) as usize + half * args.dst_block_stride;
            store(args.dst.add(offset), clamp(v, args.clamp));
        }
    }
}

/// # Safety
/// 8 elements at `p` are readable.
#[inline(always)]
pub(crate) unsafe fn load(p: *const f32) -> f32x8 {
    // SAFETY: the caller's; an array of f32 has its alignment.
    f32x8::from(unsafe { p.cast::<[f32; 8]>().read() })
}

/// # Safety
/// 8 elements at `p` are writable.
#[inline(always)]
pub(crate) unsafe fn store(p: *mut f32, v: f32x8) {
    // SAFETY: the caller's; an array of f32 has its alignment.
    unsafe { p.cast::<[f32; 8]>().write(v.to_array()) }
}
