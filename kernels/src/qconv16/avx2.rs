//! `qconv16` for AVX2. See the module above for the loop nest; what is done to it here:
//!
//! 1. A tile of 6 pixels by 16 channels stays in registers: 12 accumulators, 2 weight vectors, 1
//!    broadcast pair and 1 product are 16 ymm. Per pair of input channels 12 multiply-adds and 12
//!    additions fill the four vector pipes for 6 cycles; 8 loads stay below the load ports' 2 per cycle.
//! 2. Tiles are as even as possible (`row_tiles`), never thin.
//! 3. The first tile prefetches the next packed weights into L2.

use crate::arrays::{from_fn, map};
use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, PanelArgs, TAP_LEN};
use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};
use crate::requant::{HALF, avx2::store};
use crate::winograd::multiply::row_tiles;

/// Weights of a pair of input channels.
const PAIR: usize = 2 * OC_PANEL;

/// The kernel's registry entry.
pub const KERNEL: Kernel =
    Kernel { name: "avx2-qconv16-6x16", isa: Isa::Avx2, raw: panel, widen_pixels, widen_weights };

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn widen_pixels(src: &[u8], dst: &mut [i16]) {
    src.iter().zip(dst).for_each(|(from, to)| *to = i16::from(*from));
}

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn widen_weights(src: &[i8], dst: &mut [i16]) {
    src.iter().zip(dst).for_each(|(from, to)| *to = i16::from(*from));
}

/// # Safety
/// As [`Kernel::run_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn panel(args: &PanelArgs) {
    let (taller, height, others) = row_tiles(args.nb_pixels);
    let mut m = 0;
    for t in 0..taller + others {
        let rows = if t < taller { height } else { height - 1 };
        // SAFETY: the tiles partition `0..nb_pixels`.
        unsafe {
            match (rows, t) {
                (6, 0) => tile::<6, true>(args, m),
                (6, _) => tile::<6, false>(args, m),
                (5, 0) => tile::<5, true>(args, m),
                (5, _) => tile::<5, false>(args, m),
                (4, 0) => tile::<4, true>(args, m),
                (4, _) => tile::<4, false>(args, m),
                (3, _) => tile::<3, true>(args, m),
                (2, _) => tile::<2, true>(args, m),
                _ => tile::<1, true>(args, m),
            }
        }
        m += rows;
    }
}

/// One register tile: pixels `m..m + ROWS`.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn tile<const ROWS: usize, const FETCH: bool>(args: &PanelArgs, m: usize) {
    // SAFETY: every offset is one that the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const i16; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let partial = args.partial.wrapping_add(m * OC_PANEL);
        let mut acc: [[__m256i; 2]; ROWS] = if args.first {
            [map([0, HALF], |at| _mm256_loadu_si256(args.bias.add(at).cast())); ROWS]
        } else {
            let carried = |r: usize, at| _mm256_load_si256(partial.add(r * OC_PANEL + at).cast());
            from_fn(|r| [carried(r, 0), carried(r, HALF)])
        };
        let mut weights = args.weights;
        let mut line = args.next;
        for t in 0..args.nb_taps {
            if FETCH {
                for _ in 0..TAP_LEN / 64 {
                    _mm_prefetch::<_MM_HINT_T1>(line);
                    line = line.wrapping_add(64);
                }
            }
            let tap = *args.taps.add(t) as usize;
            for k in 0..C_BLOCK / 2 {
                let w = map([0, HALF], |o| _mm256_load_si256(weights.add(k * PAIR + 2 * o).cast()));
                for r in 0..ROWS {
                    acc[r] = add_pair(acc[r], rows[r], 2 * tap + 4 * k, w);
                }
            }
            weights = weights.add(TAP_LEN);
        }
        if !args.last {
            for r in 0..ROWS {
                _mm256_store_si256(partial.add(r * OC_PANEL).cast(), acc[r][0]);
                _mm256_store_si256(partial.add(r * OC_PANEL + HALF).cast(), acc[r][1]);
            }
            return;
        }
        let dst_pixels = from_fn(|r| *args.dst_pixels.add(m + r) as usize);
        let res_pixels = match args.requant.residual {
            Some(_) => from_fn(|r| *args.res_pixels.add(m + r) as usize),
            None => [0; ROWS],
        };
        for half in 0..args.requant.dst.nb_halves() {
            let sums: [__m256i; ROWS] = from_fn(|r| acc[r][half]);
            store(&args.requant, &sums, half, &dst_pixels, &res_pixels);
        }
    }
}

/// `acc` plus the products of a pair of input channels, `offset` bytes from `row`. In assembly, because the
/// compiler would load the weights of several pairs first, and add products of several pairs before they
/// are added to a sum, which needs more registers than there are.
///
/// # Safety
/// 4 bytes of `row` at `offset` are readable, on a CPU with AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_pair(
    [mut low, mut high]: [__m256i; 2],
    row: *const i16,
    offset: usize,
    w: [__m256i; 2],
) -> [__m256i; 2] {
    // SAFETY: reads what the caller says is readable, and writes four registers.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{row} + {offset}]",
            "vpmaddwd {y}, {x}, {w0}",
            "vpmaddwd {x}, {x}, {w1}",
            "vpaddd {low}, {low}, {y}",
            "vpaddd {high}, {high}, {x}",
            row = in(reg) row,
            offset = in(reg) offset,
            w0 = in(ymm_reg) w[0], w1 = in(ymm_reg) w[1],
            low = inout(ymm_reg) low,
            high = inout(ymm_reg) high,
            x = out(ymm_reg) _,
            y = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    [low, high]
}
