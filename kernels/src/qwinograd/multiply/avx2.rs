//! `multiply` for AVX2.
//!
//! A register tile of 6 tiles by 16 channels: 12 accumulators, 2 filter vectors, 1 broadcast pair and 1 product are
//! 16 ymm. Per pair of input channels 12 multiply-adds and 12 additions fill the four vector pipes for 6
//! cycles; 8 loads stay below the load ports' 2 per cycle.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{MultiplyArgs, row_tiles};
use crate::arrays::map;
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};

/// # Safety
/// As [`multiply_raw`](super::super::Kernel::multiply_raw), on a CPU with AVX2.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn multiply(args: &MultiplyArgs) {
    // Lines per block and point, so that all are fetched while the first tiles are computed.
    // SAFETY: the contract is the caller's.
    unsafe {
        match args.t {
            6 => points::<1>(args),
            _ => points::<3>(args),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2")]
unsafe fn points<const FETCH: usize>(args: &MultiplyArgs) {
    let mut next = args.next;
    for (p, tiles) in args.points() {
        let (taller, height, others) = row_tiles(tiles.len());
        let mut fetch = Some(&mut next);
        let mut t = tiles.start;
        // SAFETY: the register tiles partition `tiles`.
        unsafe {
            for _ in 0..taller {
                rows::<FETCH>(args, height, p, t, fetch.take());
                t += height;
            }
            for _ in 0..others {
                rows::<FETCH>(args, height - 1, p, t, fetch.take());
                t += height - 1;
            }
        }
    }
}

/// # Safety
/// As [`tile`] with that many rows.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn rows<const FETCH: usize>(
    args: &MultiplyArgs,
    height: usize,
    p: usize,
    t: usize,
    next: Option<&mut *const u8>,
) {
    // SAFETY: the contract is the caller's.
    unsafe {
        match height {
            6 => tile::<6, FETCH>(args, p, t, next),
            5 => tile::<5, FETCH>(args, p, t, next),
            4 => tile::<4, FETCH>(args, p, t, next),
            3 => tile::<3, FETCH>(args, p, t, next),
            2 => tile::<2, FETCH>(args, p, t, next),
            1 => tile::<1, FETCH>(args, p, t, next),
            _ => {}
        }
    }
}

/// One register tile: tiles `t..t + ROWS` at point `p`. The first one of a point advances `next`.
///
/// # Safety
/// As [`multiply`], and these are tiles of that point.
#[target_feature(enable = "avx2")]
unsafe fn tile<const ROWS: usize, const FETCH: usize>(
    args: &MultiplyArgs,
    p: usize,
    t: usize,
    next: Option<&mut *const u8>,
) {
    /// Elements of a pair of input channels in U.
    const PAIR: usize = 2 * OC_PANEL;
    // SAFETY: addresses are those of the contract.
    unsafe {
        let mut v = args.v.add(p * args.v_point_stride + t * C_BLOCK);
        let mut u = args.u.add(p * args.u_point_stride);
        let m = args.m.add(p * args.m_point_stride + t * OC_PANEL);
        let mut acc = [[_mm256_setzero_si256(); 2]; ROWS];
        if !args.first {
            for r in 0..ROWS {
                acc[r] = map([0, 8], |at| _mm256_load_si256(m.add(r * OC_PANEL + at).cast()));
            }
        }
        // The same line again costs little.
        let (mut line, advance) = match &next {
            Some(next) => (**next, 64),
            None => (args.next, 0),
        };
        for _ in 0..args.nb_blocks {
            for _ in 0..FETCH {
                _mm_prefetch::<_MM_HINT_T1>(line.cast());
                line = line.wrapping_add(advance);
            }
            for k in 0..C_BLOCK / 2 {
                let w0 = _mm256_load_si256(u.add(k * PAIR).cast());
                let w1 = _mm256_load_si256(u.add(k * PAIR + PAIR / 2).cast());
                for r in 0..ROWS {
                    let pair = v.add(r * C_BLOCK + 2 * k).cast::<i32>().read_unaligned();
                    let x = _mm256_set1_epi32(pair);
                    acc[r][0] = fix(_mm256_add_epi32(acc[r][0], _mm256_madd_epi16(x, w0)));
                    acc[r][1] = fix(_mm256_add_epi32(acc[r][1], _mm256_madd_epi16(x, w1)));
                }
            }
            v = v.wrapping_add(args.v_block_stride);
            u = u.wrapping_add(C_BLOCK / 2 * PAIR);
        }
        for r in 0..ROWS {
            _mm256_store_si256(m.add(r * OC_PANEL).cast(), acc[r][0]);
            _mm256_store_si256(m.add(r * OC_PANEL + 8).cast(), acc[r][1]);
        }
        if let Some(next) = next {
            *next = line;
        }
    }
}

/// Hides where a sum comes from: integer additions are associative, and the compiler would add products of
/// several channels first, which takes more registers than there are.
#[target_feature(enable = "avx2")]
#[inline]
fn fix(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}
