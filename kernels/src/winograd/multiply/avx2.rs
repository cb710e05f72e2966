//! `multiply` for AVX2 + FMA.
//!
//! A register tile of 6 tiles by 16 channels: 12 accumulators, 2 filter vectors and 1 broadcast are 15 of 16
//! ymm; 8 loads per 12 FMAs stay below the load ports' 2 per cycle.

use crate::arrays::from_fn;
use std::arch::x86_64::*;

use super::{MultiplyArgs, row_tiles};
use crate::layout::{C_BLOCK, OC_PANEL};
use crate::sconv::avx2::multiply_add;

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw), on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    // Lines per block and point, so that all are fetched while the first tiles are computed; most of F(2x2)'s, which is
    // rare.
    // SAFETY: the contract is the caller's.
    unsafe {
        match args.t {
            4 | 5 => points::<3>(args),
            _ => points::<2>(args),
        }
    }
}

/// All points; the first register tile of each fetches `NEXT` lines of `next` per block.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn points<const NEXT: usize>(args: &MultiplyArgs) {
    let mut next = args.next;
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        let mut t = tiles.start;
        for i in 0..taller + others {
            let height = if i < taller { height } else { height - 1 };
            // SAFETY: the register tiles partition `tiles`.
            unsafe {
                if i == 0 {
                    next = rows::<NEXT, true>(args, height, p, t, next);
                } else {
                    rows::<0, false>(args, height, p, t, next);
                }
            }
            t += height;
        }
    }
}

/// # Safety
/// As [`tile`] with that many rows.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn rows<const NEXT: usize, const FIRST: bool>(
    args: &MultiplyArgs,
    height: usize,
    p: usize,
    t: usize,
    next: *const u8,
) -> *const u8 {
    // SAFETY: the contract is the caller's.
    unsafe {
        match height {
            6 => tile::<6, NEXT, FIRST>(args, p, t, next),
            5 => tile::<5, NEXT, FIRST>(args, p, t, next),
            4 => tile::<4, NEXT, FIRST>(args, p, t, next),
            3 => tile::<3, NEXT, FIRST>(args, p, t, next),
            2 => tile::<2, NEXT, FIRST>(args, p, t, next),
            1 => tile::<1, NEXT, FIRST>(args, p, t, next),
            _ => next,
        }
    }
}

/// Bytes and elements of a cache line.
const LINE_BYTES: usize = 64;
const LINE: usize = LINE_BYTES / size_of::<f32>();

/// Whether the chunks of V of two points fit an L1 cache of 32 KiB; else fetching the next one would evict
/// what is in use (the same line again costs little).
fn fits_twice(args: &MultiplyArgs) -> bool {
    2 * args.tiles.len() * args.nb_blocks * C_BLOCK * size_of::<f32>() < 32 << 10
}

/// One register tile: tiles `t..t + ROWS` at point `p`. Meanwhile it fetches into L1 what it would read
/// at the next point (the filters only if it is the point's `FIRST`), and into L2 `NEXT` lines of
/// `next` per block; returns where those end.
///
/// # Safety
/// As [`multiply`], and these are tiles of that point.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize, const NEXT: usize, const FIRST: bool>(
    args: &MultiplyArgs,
    p: usize,
    t: usize,
    mut next: *const u8,
) -> *const u8 {
    // SAFETY: addresses are those of the contract; prefetching takes any.
    unsafe {
        let mut v = args.v.add(p * args.v_point_stride + t * C_BLOCK);
        let mut u = args.u.add(p * args.u_point_stride);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL);
        let mut acc: [[__m256; 2]; ROWS] = if args.first {
            [[_mm256_setzero_ps(); 2]; ROWS]
        } else {
            from_fn(|r| {
                [_mm256_load_ps(m.add(r * OC_PANEL)), _mm256_load_ps(m.add(r * OC_PANEL + 8))]
            })
        };
        let v_ahead = if fits_twice(args) { args.v_point_stride } else { 0 };
        let (nb_blocks, v_block_stride) = (args.nb_blocks, args.v_block_stride);
        let u_point_stride = args.u_point_stride;
        for _ in 0..nb_blocks {
            for _ in 0..NEXT {
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                next = next.wrapping_add(LINE_BYTES);
            }
            for k in 0..C_BLOCK {
                if FIRST {
                    let line = u.wrapping_add(u_point_stride + k * OC_PANEL);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                if k * LINE < ROWS * C_BLOCK {
                    let line = v.wrapping_add(v_ahead + k * LINE);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                let w0 = _mm256_load_ps(u.add(k * OC_PANEL));
                let w1 = _mm256_load_ps(u.add(k * OC_PANEL + 8));
                for r in 0..ROWS {
                    let x = _mm256_broadcast_ss(&*v.add(r * C_BLOCK + k));
                    multiply_add(&mut acc[r], x, [w0, w1]);
                }
            }
            v = v.wrapping_add(v_block_stride);
            u = u.wrapping_add(C_BLOCK * OC_PANEL);
        }
        for r in 0..ROWS {
            _mm256_store_ps(m.add(r * OC_PANEL), acc[r][0]);
            _mm256_store_ps(m.add(r * OC_PANEL + 8), acc[r][1]);
        }
        next
    }
}
