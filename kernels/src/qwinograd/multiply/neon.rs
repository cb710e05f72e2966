//! `multiply` for NEON.
//!
//! A register tile of 6 tiles by 8 channels, half a panel: 12 accumulators, 6 vectors of 8 input
//! channels and a pair of filter vectors, one per input channel of the pair, are 20 of 32 registers. The
//! multiplication takes an input channel from its lane.

use crate::arrays::{from_fn, map};
use std::arch::aarch64::*;

use super::{MultiplyArgs, row_tiles};
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};
use crate::requant::HALF;
use crate::requant::neon::Half;

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw).
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        for half in [0, HALF] {
            let mut t = tiles.start;
            for i in 0..taller + others {
                let height = if i < taller { height } else { height - 1 };
                // SAFETY: the register tiles partition `tiles`.
                unsafe {
                    match height {
                        6 => tile::<6>(args, p, t, half),
                        5 => tile::<5>(args, p, t, half),
                        4 => tile::<4>(args, p, t, half),
                        3 => tile::<3>(args, p, t, half),
                        2 => tile::<2>(args, p, t, half),
                        _ => tile::<1>(args, p, t, half),
                    }
                }
                t += height;
            }
        }
    }
}

/// One register tile: tiles `t..t + ROWS` at point `p`, channels `half..half + 8` of the panel.
///
/// # Safety
/// As [`multiply`], and these are tiles of that point.
#[inline(never)]
unsafe fn tile<const ROWS: usize>(args: &MultiplyArgs, p: usize, t: usize, half: usize) {
    /// Input channels of a vector.
    const LANES: usize = 8;
    // SAFETY: addresses are those of the contract.
    unsafe {
        let mut v = args.v.add(p * args.v_point_stride + t * C_BLOCK);
        let mut u = args.u.add(p * args.u_point_stride + 2 * half);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL + half);
        let mut acc: [Half; ROWS] = from_fn(|r| {
            map([0, 4], |at| match args.first {
                true => vdupq_n_s32(0),
                false => vld1q_s32(m.add(r * OC_PANEL + at)),
            })
        });
        for _ in 0..args.nb_blocks {
            for at in (0..C_BLOCK).step_by(LANES) {
                let x: [int16x8_t; ROWS] = from_fn(|r| vld1q_s16(v.add(r * C_BLOCK + at)));
                add_pair::<ROWS, 0, 1>(&mut acc, &x, u);
                add_pair::<ROWS, 2, 3>(&mut acc, &x, u.add(2 * OC_PANEL));
                add_pair::<ROWS, 4, 5>(&mut acc, &x, u.add(4 * OC_PANEL));
                add_pair::<ROWS, 6, 7>(&mut acc, &x, u.add(6 * OC_PANEL));
                u = u.add(LANES * OC_PANEL);
            }
            v = v.wrapping_add(args.v_block_stride);
        }
        for r in 0..ROWS {
            vst1q_s32(m.add(r * OC_PANEL), acc[r][0]);
            vst1q_s32(m.add(r * OC_PANEL + 4), acc[r][1]);
        }
    }
}

/// `acc[r][o] += x[r][A] * u[o][0] + x[r][B] * u[o][1]`.
///
/// # Safety
/// 16 elements of `u` are readable.
#[inline(always)]
unsafe fn add_pair<const ROWS: usize, const A: i32, const B: i32>(
    acc: &mut [Half; ROWS],
    x: &[int16x8_t; ROWS],
    u: *const i16,
) {
    // SAFETY: the caller's.
    unsafe {
        let int16x8x2_t(a, b) = vld2q_s16(u);
        for r in 0..ROWS {
            let [low, high] = acc[r];
            let low = vmlal_laneq_s16::<A>(low, vget_low_s16(a), x[r]);
            let high = vmlal_high_laneq_s16::<A>(high, a, x[r]);
            acc[r][0] = vmlal_laneq_s16::<B>(low, vget_low_s16(b), x[r]);
            acc[r][1] = vmlal_high_laneq_s16::<B>(high, b, x[r]);
        }
    }
}
