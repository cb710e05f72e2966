//! `sconv` and `hconv` for NEON. See the module above for the loop nest; what is done to it here:
//!
//! 1. A tile of 6 pixels by 16 channels stays in registers: 24 accumulators, 6 vectors of 4 source
//!    channels and 2 of weights are all 32. That is enough chains to cover the FMA's latency (4
//!    cycles) where 4 of them start per cycle.
//! 2. The FMA takes a source channel from its lane: no broadcasts, and 22 loads to 96 FMAs.
//! 3. Tiles are 6 high and end in 5s and 4s (`row_tiles`), never in a thin one.
//!
//! The next weights are left to the hardware's prefetch.

use crate::arrays::{from_fn, map};
use std::arch::aarch64::*;
use std::arch::asm;
use std::sync::atomic::{Ordering, compiler_fence};

use half::f16;

use super::{Kernel, PanelArgs, row_tiles};
use crate::isa::Isa;
use crate::layout::{C_BLOCK, OC_PANEL};

/// The registry's entry for f32 weights.
pub const KERNEL: Kernel = Kernel::new("neon-sconv-6x16", Isa::Neon, panel::<f32>);
/// The registry's entry for half weights.
pub const HALF: Kernel<f16> = Kernel::new("neon-hconv-6x16", Isa::Neon, panel::<f16>);

/// Floats per vector.
const LANES: usize = 4;

/// The output channels of a panel.
pub(crate) type Panel = [float32x4_t; OC_PANEL / LANES];

/// An element type of weights.
pub(crate) trait Weight: Copy {
    /// Whether each vector is used before the next is loaded. The compiler would widen more of them ahead
    /// than there are registers for.
    const ONE_BY_ONE: bool;

    /// 4 of them in f32, exactly.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(p: *const Self) -> float32x4_t;
}

impl Weight for f32 {
    const ONE_BY_ONE: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const Self) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vld1q_f32(p) }
    }
}

impl Weight for f16 {
    const ONE_BY_ONE: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const Self) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { widen(p) }
    }
}

/// 4 halves in f32.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(crate) unsafe fn widen(p: *const f16) -> float32x4_t {
    // SAFETY: the caller's; `fcvtl` is part of the target's baseline.
    unsafe {
        let halves = vld1_u16(p.cast());
        let wide: float32x4_t;
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
        wide
    }
}

/// # Safety
/// As [`Kernel::run_raw`].
unsafe fn panel<W: Weight>(args: &PanelArgs<W>) {
    // SAFETY: the contract is the caller's.
    unsafe {
        if args.tap_len == C_BLOCK {
            pixels::<W, C_BLOCK>(args);
        } else {
            pixels::<W, 0>(args);
        }
    }
}

/// All tiles of the run. `TAP` is the tap length where it is known, else 0.
///
/// # Safety
/// As [`panel`].
unsafe fn pixels<W: Weight, const TAP: usize>(args: &PanelArgs<W>) {
    let [sixes, fives, fours, rest] = row_tiles(args.nb_pixels);
    let mut m = 0;
    // SAFETY: the tiles partition `0..nb_pixels`.
    unsafe {
        for _ in 0..sixes {
            tile::<W, 6, TAP>(args, m);
            m += 6;
        }
        for _ in 0..fives {
            tile::<W, 5, TAP>(args, m);
            m += 5;
        }
        for _ in 0..fours {
            tile::<W, 4, TAP>(args, m);
            m += 4;
        }
        match rest {
            3 => tile::<W, 3, TAP>(args, m),
            2 => tile::<W, 2, TAP>(args, m),
            1 => tile::<W, 1, TAP>(args, m),
            _ => {}
        }
    }
}

/// One register tile: pixels `m..m + ROWS`.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[inline(never)]
unsafe fn tile<W: Weight, const ROWS: usize, const TAP: usize>(args: &PanelArgs<W>, m: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const f32; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let mut acc: [Panel; ROWS] = if args.start.is_null() {
            [load(args.bias); ROWS]
        } else {
            from_fn(|r| load(args.start.add((m + r) * OC_PANEL)))
        };
        let mut weights = args.weights;
        for t in 0..args.nb_taps {
            let tap = *args.taps.add(t) as usize;
            let len = if TAP > 0 { TAP } else { args.tap_len };
            let fours = len / LANES * LANES;
            for k in (0..fours).step_by(LANES) {
                add_four(&mut acc, map(rows, |row| row.add(tap + k)), weights);
                weights = weights.add(LANES * OC_PANEL);
            }
            for k in fours..len {
                let x: [float32x4_t; ROWS] = from_fn(|r| vld1q_dup_f32(rows[r].add(tap + k)));
                add::<W, ROWS, 0>(&mut acc, &x, weights);
                weights = weights.add(OC_PANEL);
            }
        }
        finish(args, &acc, m);
    }
}

/// What becomes of a tile's sums.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn finish<W, const ROWS: usize>(args: &PanelArgs<W>, acc: &[Panel; ROWS], m: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let [min, max] = map(args.clamp, |bound| vdupq_n_f32(bound));
        for r in 0..ROWS {
            if !args.sums.is_null() {
                store(args.sums.add((m + r) * OC_PANEL), acc[r]);
            }
            if args.dst.is_null() {
                continue;
            }
            for block in 0..OC_PANEL / C_BLOCK {
                if block >= args.nb_blocks {
                    continue;
                }
                let mut v = [acc[r][2 * block], acc[r][2 * block + 1]];
                if !args.addend.is_null() {
                    let at = (m + r) * OC_PANEL + block * C_BLOCK;
                    let addend: [_; 2] = load(args.addend.add(at));
                    v = [vaddq_f32(v[0], addend[0]), vaddq_f32(v[1], addend[1])];
                }
                if !args.residual.is_null() {
                    let at = *args.res_pixels.add(m + r) as usize + block * args.res_block_stride;
                    let residual: [_; 2] = load(args.residual.add(at));
                    v = [vaddq_f32(v[0], residual[0]), vaddq_f32(v[1], residual[1])];
                }
                let at = *args.dst_pixels.add(m + r) as usize + block * args.dst_block_stride;
                // NaN passes through both.
                store(args.dst.add(at), map(v, |v| vminq_f32(vmaxq_f32(v, min), max)));
            }
        }
    }
}

/// # Safety
/// `4 * N` elements at `p` are readable.
#[inline(always)]
pub(crate) unsafe fn load<const N: usize>(p: *const f32) -> [float32x4_t; N] {
    // SAFETY: the caller's.
    from_fn(|i| unsafe { vld1q_f32(p.add(i * LANES)) })
}

/// # Safety
/// `4 * N` elements at `p` are writable.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(p: *mut f32, v: [float32x4_t; N]) {
    for i in 0..N {
        // SAFETY: the caller's.
        unsafe { vst1q_f32(p.add(i * LANES), v[i]) };
    }
}

/// `acc[r] += rows[r][k] * weights[k][0..16]` for k from 0 to 3.
///
/// # Safety
/// 4 elements of each row and 64 of `weights` are readable.
#[inline(always)]
pub(crate) unsafe fn add_four<W: Weight, const ROWS: usize>(
    acc: &mut [Panel; ROWS],
    rows: [*const f32; ROWS],
    weights: *const W,
) {
    // SAFETY: the caller's.
    unsafe {
        let x = map(rows, |row| vld1q_f32(row));
        add::<W, ROWS, 0>(acc, &x, weights);
        add::<W, ROWS, 1>(acc, &x, weights.add(OC_PANEL));
        add::<W, ROWS, 2>(acc, &x, weights.add(2 * OC_PANEL));
        add::<W, ROWS, 3>(acc, &x, weights.add(3 * OC_PANEL));
    }
    // The compiler would load the next four of each row ahead, for which there are no registers.
    compiler_fence(Ordering::SeqCst);
}

/// `acc[r] += x[r][LANE] * weights[0..16]`.
///
/// # Safety
/// 16 elements of `weights` are readable.
#[inline(always)]
unsafe fn add<W: Weight, const ROWS: usize, const LANE: i32>(
    acc: &mut [Panel; ROWS],
    x: &[float32x4_t; ROWS],
    weights: *const W,
) {
    // SAFETY: the caller's.
    unsafe {
        for i in 0..OC_PANEL / LANES {
            let w = W::load(weights.add(i * LANES));
            for r in 0..ROWS {
                acc[r][i] = vfmaq_laneq_f32::<LANE>(acc[r][i], w, x[r]);
            }
            if W::ONE_BY_ONE {
                compiler_fence(Ordering::SeqCst);
            }
        }
    }
}
