//! `multiply` for any CPU, on `wide`'s vectors: a register tile of 6 tiles by 8 channels, half a panel, is
//! 12 accumulators on 4-lane hardware. Multiply and add round separately.

use std::array::from_fn;

use wide::f32x8;

use super::{MultiplyArgs, row_tiles};
use crate::layout::{C_BLOCK, OC_PANEL};

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw).
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        for half in [0, C_BLOCK] {
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
#[inline(always)]
unsafe fn tile<const ROWS: usize>(args: &MultiplyArgs, p: usize, t: usize, half: usize) {
    // SAFETY: addresses are those of the contract.
    unsafe {
        let v = args.v.add(p * args.v_point_stride + t * C_BLOCK);
        let u = args.u.add(p * args.u_point_stride + half);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL + half);
        let mut acc: [f32x8; ROWS] = if args.first {
            [f32x8::ZERO; ROWS]
        } else {
            from_fn(|r| f32x8::from(m.add(r * OC_PANEL).cast::<[f32; 8]>().read()))
        };
        for block in 0..args.nb_blocks {
            for k in 0..C_BLOCK {
                let u = u.add((block * C_BLOCK + k) * OC_PANEL);
                let w = f32x8::from(u.cast::<[f32; 8]>().read());
                for r in 0..ROWS {
                    acc[r] +=
                        f32x8::splat(*v.add(block * args.v_block_stride + r * C_BLOCK + k)) * w;
                }
            }
        }
        for r in 0..ROWS {
            m.add(r * OC_PANEL).cast::<[f32; 8]>().write(acc[r].to_array());
        }
    }
}
