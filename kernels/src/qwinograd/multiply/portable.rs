//! `multiply` for any CPU, on `wide`'s vectors: a register tile of 6 tiles by 8 channels, half a panel, is
//! 12 accumulators of 128 bits.

use wide::{i16x8, i32x4};

use super::{MultiplyArgs, row_tiles};
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw).
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        for half in [0, OC_PANEL / 2] {
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
        let u = args.u.add(p * args.u_point_stride + 2 * half);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL + half);
        let mut acc = [[i32x4::ZERO; 2]; ROWS];
        if !args.first {
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = m.add(r * OC_PANEL).cast::<[[i32; 4]; 2]>().read().map(i32x4::from);
            }
        }
        for block in 0..args.nb_blocks {
            for k in 0..C_BLOCK / 2 {
                let u = u.add((block * C_BLOCK / 2 + k) * 2 * OC_PANEL);
                let w = u.cast::<[[i16; 8]; 2]>().read().map(i16x8::from);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let pair = v.add(block * args.v_block_stride + r * C_BLOCK + 2 * k);
                    let [a, b] = pair.cast::<[i16; 2]>().read();
                    let x = i16x8::from([a, b, a, b, a, b, a, b]);
                    acc[0] += x.dot(w[0]);
                    acc[1] += x.dot(w[1]);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            m.add(r * OC_PANEL).cast::<[[i32; 4]; 2]>().write(acc.map(|a| a.to_array()));
        }
    }
}
