//! `qconv` for NEON. See the module above for the loop nest; what is done to it here:
//!
//! 1. A tile of 8 pixels by 8 channels stays in registers: 16 accumulators, a quad's weights, and
//!    source bytes, one register per pixel.
//! 2. Sums are of 32 bits, so that groups need no certificate. Without dot products, activations and
//!    weights are widened to 16 bits, weights once for all pixels, and 8 multiplications by a lane
//!    make a quad of a pixel.
//! 3. Dot products take a quad from any lane: as long as the source bytes of 4 quads are adjacent, a
//!    pixel's are one load.
//! 4. A tile's two strips follow each other, so the second finds the source in L1.
//!
//! The tile and its loop are those of all NEON tiers, which differ in a quad's [`Arithmetic`].

use crate::arrays::{from_fn, map};
use std::arch::aarch64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::{Kernel, MR, PanelArgs, QUAD_LEN, Strip, row_tiles};
use crate::isa::Isa;
use crate::layout::OC_PANEL;
use crate::requant::HALF;
use crate::requant::neon::{Half, store};

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel::new("neon-qconv-8x8", Isa::Neon, false, u8::MAX, panel::<Widen>);

/// Quads of a run: those whose source bytes fill a register.
const RUN: usize = 4;

/// How a quad is multiplied.
///
/// # Safety
/// All methods need the tier of the implementing type on the running CPU.
pub(super) trait Arithmetic {
    /// A quad's weights.
    type Weights: Copy;
    /// Source bytes of a quad, or of a run.
    type Bytes: Copy;
    /// Whether there are runs.
    const HAS_RUNS: bool;

    /// # Safety
    /// A quad of weights is readable.
    unsafe fn weights(weights: *const i8) -> Self::Weights;
    /// The bytes of a quad, in lane 0.
    ///
    /// # Safety
    /// 4 bytes are readable.
    unsafe fn quad(bytes: *const u8) -> Self::Bytes;
    /// The bytes of a run.
    ///
    /// # Safety
    /// 16 bytes are readable.
    unsafe fn run(bytes: *const u8) -> Self::Bytes;
    /// `acc` plus the products with the quad of a lane.
    unsafe fn add<const LANE: i32>(acc: Half, weights: Self::Weights, bytes: Self::Bytes) -> Half;
    /// What every pixel's products with a strip lack.
    ///
    /// # Safety
    /// As [`Kernel::run_raw`].
    #[inline(always)]
    unsafe fn lacking(_: &Strip) -> Half {
        // SAFETY: NEON is the target's baseline.
        [unsafe { vdupq_n_s32(0) }; 2]
    }
}

/// Multiplications of 16 bits with sums of 32.
struct Widen;

impl Arithmetic for Widen {
    /// By input channel, of 8 output channels each.
    type Weights = [int16x8_t; 4];
    type Bytes = int16x4_t;
    const HAS_RUNS: bool = false;

    #[inline(always)]
    unsafe fn weights(weights: *const i8) -> Self::Weights {
        // SAFETY: the caller's.
        unsafe {
            let int8x8x4_t(a, b, c, d) = vld4_s8(weights);
            map([a, b, c, d], |w| vmovl_s8(w))
        }
    }
    #[inline(always)]
    unsafe fn quad(bytes: *const u8) -> Self::Bytes {
        // SAFETY: the caller's.
        unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(bytes.cast::<u32>().read_unaligned()));
            vget_low_s16(vreinterpretq_s16_u16(vmovl_u8(bytes)))
        }
    }
    unsafe fn run(_: *const u8) -> Self::Bytes {
        unreachable!("there are no runs")
    }
    #[inline(always)]
    unsafe fn add<const LANE: i32>([low, high]: Half, w: Self::Weights, x: Self::Bytes) -> Half {
        // SAFETY: the trait's.
        unsafe {
            let low = vmlal_lane_s16::<0>(low, vget_low_s16(w[0]), x);
            let low = vmlal_lane_s16::<1>(low, vget_low_s16(w[1]), x);
            let low = vmlal_lane_s16::<2>(low, vget_low_s16(w[2]), x);
            let low = vmlal_lane_s16::<3>(low, vget_low_s16(w[3]), x);
            let high = vmlal_high_lane_s16::<0>(high, w[0], x);
            let high = vmlal_high_lane_s16::<1>(high, w[1], x);
            let high = vmlal_high_lane_s16::<2>(high, w[2], x);
            let high = vmlal_high_lane_s16::<3>(high, w[3], x);
            [low, high]
        }
    }
}

/// # Safety
/// As [`Kernel::run_raw`].
pub(super) unsafe fn panel<A: Arithmetic>(args: &PanelArgs) {
    // SAFETY: the contract is the caller's; the tiles partition `0..nb_pixels`.
    unsafe {
        let lacking = [A::lacking(&args.strips[0]), A::lacking(&args.strips[1])];
        let (rows, tall, short) = row_tiles(args.nb_pixels, MR);
        let mut m = 0;
        for t in 0..tall + short {
            let rows = if t < tall { rows } else { rows - 1 };
            match rows {
                8 => strips::<A, 8>(args, m, lacking),
                7 => strips::<A, 7>(args, m, lacking),
                6 => strips::<A, 6>(args, m, lacking),
                5 => strips::<A, 5>(args, m, lacking),
                4 => strips::<A, 4>(args, m, lacking),
                3 => strips::<A, 3>(args, m, lacking),
                2 => strips::<A, 2>(args, m, lacking),
                _ => strips::<A, 1>(args, m, lacking),
            }
            m += rows;
        }
    }
}

/// Pixels `m..m + ROWS` of all channels that are needed.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
unsafe fn strips<A: Arithmetic, const ROWS: usize>(args: &PanelArgs, m: usize, lacking: [Half; 2]) {
    // Both halves of a carried sum are needed; of a stored panel only what the tensor has.
    let nb_halves = if args.last { args.requant.dst.nb_halves() } else { 2 };
    for half in 0..nb_halves {
        // SAFETY: the caller's.
        unsafe { tile::<A, ROWS>(args, m, half, &lacking[half]) }
    }
}

/// One register tile: pixels `m..m + ROWS`, channels `8*half..8*half + 8` of the panel.
///
/// # Safety
/// As [`panel`], `m + ROWS <= nb_pixels` and `half < 2`.
#[inline(never)]
unsafe fn tile<A: Arithmetic, const ROWS: usize>(
    args: &PanelArgs,
    m: usize,
    half: usize,
    lacking: &Half,
) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const u8; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let partial = args.partial.wrapping_add(m * OC_PANEL + half * HALF);
        let mut acc: [Half; ROWS] = if args.first {
            [load(args.bias.add(half * HALF)); ROWS]
        } else {
            from_fn(|r| load(partial.add(r * OC_PANEL)))
        };
        for r in 0..ROWS {
            acc[r] = map([0, 1], |i| vaddq_s32(acc[r][i], lacking[i]));
        }
        // By value: what has an address would be stored before every fence.
        acc = add_strip::<A, ROWS>(acc, &rows, &args.strips[half]);
        if !args.last {
            for r in 0..ROWS {
                vst1q_s32(partial.add(r * OC_PANEL), acc[r][0]);
                vst1q_s32(partial.add(r * OC_PANEL + 4), acc[r][1]);
            }
            return;
        }
        let dst_pixels = from_fn(|r| *args.dst_pixels.add(m + r) as usize);
        let res_pixels = match args.requant.residual {
            Some(_) => from_fn(|r| *args.res_pixels.add(m + r) as usize),
            None => [0; ROWS],
        };
        store(&args.requant, &acc, half, &dst_pixels, &res_pixels);
    }
}

/// Adds the products of all quads: runs first, and what follows the last one by the quad.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add_strip<A: Arithmetic, const ROWS: usize>(
    mut acc: [Half; ROWS],
    rows: &[*const u8; ROWS],
    strip: &Strip,
) -> [Half; ROWS] {
    let (mut weights, mut tap, mut left) = (strip.weights, strip.taps, strip.nb_quads());
    // SAFETY: the caller's.
    unsafe {
        while A::HAS_RUNS && left >= RUN && is_run(tap) {
            let x: [A::Bytes; ROWS] = from_fn(|r| A::run(rows[r].add(*tap as usize)));
            add_quad::<A, ROWS, 0>(&mut acc, &x, weights);
            add_quad::<A, ROWS, 1>(&mut acc, &x, weights.add(QUAD_LEN));
            add_quad::<A, ROWS, 2>(&mut acc, &x, weights.add(2 * QUAD_LEN));
            add_quad::<A, ROWS, 3>(&mut acc, &x, weights.add(3 * QUAD_LEN));
            weights = weights.add(RUN * QUAD_LEN);
            tap = tap.add(RUN);
            left -= RUN;
        }
        for _ in 0..left {
            let (w, offset) = (A::weights(weights), *tap as usize);
            for r in 0..ROWS {
                acc[r] = A::add::<0>(acc[r], w, A::quad(rows[r].add(offset)));
            }
            weights = weights.add(QUAD_LEN);
            tap = tap.add(1);
        }
    }
    acc
}

/// Whether the source bytes of 4 quads are adjacent.
///
/// # Safety
/// 4 taps are readable.
#[inline(always)]
unsafe fn is_run(taps: *const u32) -> bool {
    // SAFETY: the caller's. Scalar: the vector units have enough to do.
    let [low, high] = unsafe { taps.cast::<[u64; 2]>().read_unaligned() };
    let first = low & u64::from(u32::MAX);
    let twice = first << 32 | first;
    low == twice.wrapping_add(4 << 32) && high == twice.wrapping_add(12 << 32 | 8)
}

/// Adds the products of the quad of a lane.
///
/// # Safety
/// A quad of weights is readable; what [`Arithmetic`] asks.
#[inline(always)]
unsafe fn add_quad<A: Arithmetic, const ROWS: usize, const LANE: i32>(
    acc: &mut [Half; ROWS],
    x: &[A::Bytes; ROWS],
    weights: *const i8,
) {
    // SAFETY: the caller's.
    unsafe {
        let w = A::weights(weights);
        for r in 0..ROWS {
            acc[r] = A::add::<LANE>(acc[r], w, x[r]);
        }
    }
    // The compiler would load the weights of the whole run ahead, for which there are no registers.
    compiler_fence(Ordering::SeqCst);
}

/// # Safety
/// 8 elements at `p` are readable.
#[inline(always)]
unsafe fn load(p: *const i32) -> Half {
    // SAFETY: the caller's.
    unsafe { [vld1q_s32(p), vld1q_s32(p.add(4))] }
}
