//! `multiply` for NEON: the register tile of [`sconv::neon`](crate::sconv::neon), 6 tiles by 16
//! channels.

use crate::arrays::from_fn;
use std::arch::aarch64::*;

use super::{MultiplyArgs, row_tiles};
use crate::layout::{C_BLOCK, OC_PANEL};
use crate::sconv::neon::{Panel, add_four, load, store};

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw).
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        let mut t = tiles.start;
        for i in 0..taller + others {
            let height = if i < taller { height } else { height - 1 };
            // SAFETY: the register tiles partition `tiles`.
            unsafe {
                match height {
                    6 => tile::<6>(args, p, t),
                    5 => tile::<5>(args, p, t),
                    4 => tile::<4>(args, p, t),
                    3 => tile::<3>(args, p, t),
                    2 => tile::<2>(args, p, t),
                    _ => tile::<1>(args, p, t),
                }
            }
            t += height;
        }
    }
}

/// One register tile: tiles `t..t + ROWS` at point `p`.
///
/// # Safety
/// As [`multiply`], and these are tiles of that point.
#[inline(never)]
unsafe fn tile<const ROWS: usize>(args: &MultiplyArgs, p: usize, t: usize) {
    // SAFETY: addresses are those of the contract.
    unsafe {
        let mut v = args.v.add(p * args.v_point_stride + t * C_BLOCK);
        let mut u = args.u.add(p * args.u_point_stride);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL);
        let mut acc: [Panel; ROWS] = if args.first {
            [[vdupq_n_f32(0.0); 4]; ROWS]
        } else {
            from_fn(|r| load(m.add(r * OC_PANEL)))
        };
        for _ in 0..args.nb_blocks {
            add_four(&mut acc, from_fn(|r| v.add(r * C_BLOCK)), u);
            add_four(&mut acc, from_fn(|r| v.add(r * C_BLOCK + 4)), u.add(4 * OC_PANEL));
            v = v.wrapping_add(args.v_block_stride);
            u = u.wrapping_add(C_BLOCK * OC_PANEL);
        }
        for r in 0..ROWS {
            store(m.add(r * OC_PANEL), acc[r]);
        }
    }
}
