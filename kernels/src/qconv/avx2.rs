//! `qconv` for AVX2. See the module above for the loop nest and for groups; what is done to it here:
//!
//! 1. A tile of 8 pixels by 8 channels stays in registers: 8 accumulators, a group's 4 weight vectors,
//!    1 broadcast quad, 1 sum in i16, 1 product and the ones that widen it are 16 ymm.
//! 2. Per pixel, a group of 4 takes 5 multiplications where plain code takes 8: 4 `vpmaddubsw`,
//!    3 `vpaddw`, 1 `vpmaddwd` by ones, 1 `vpaddd`. At 2 multiplications per cycle a tile takes 20
//!    cycles, and its 36 loads 18. Its some 120 instructions take 20 too where 6 are issued per cycle, so a group
//!    is not cheaper for fewer multiplications alone: one more instruction per pixel makes it as long as two
//!    groups of 2.
//! 3. A tile's two strips follow each other, so the second finds the source in L1.
//! 4. The first tiles prefetch the next weights into L2, a line per group.

use crate::arrays::from_fn;
use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, PanelArgs, QUAD_LEN, Strip, row_tiles};
use crate::isa::Isa;
use crate::layout::OC_PANEL;
use crate::requant::{HALF, avx2::store};

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel::new("avx2-qconv-8x8", Isa::Avx2, true, u8::MAX, panel);

/// # Safety
/// As [`Kernel::run_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn panel(args: &PanelArgs) {
    let (rows, tall, short) = row_tiles(args.nb_pixels);
    let mut next = Fetch { line: args.next_weights.0, left: args.next_weights.1.div_ceil(64) };
    let mut m = 0;
    for t in 0..tall + short {
        let rows = if t < tall { rows } else { rows - 1 };
        // SAFETY: the tiles partition `0..nb_pixels`.
        unsafe {
            match rows {
                8 => strips::<8>(args, m, &mut next),
                7 => strips::<7>(args, m, &mut next),
                6 => strips::<6>(args, m, &mut next),
                5 => strips::<5>(args, m, &mut next),
                4 => strips::<4>(args, m, &mut next),
                3 => strips::<3>(args, m, &mut next),
                2 => strips::<2>(args, m, &mut next),
                _ => strips::<1>(args, m, &mut next),
            }
        }
        m += rows;
    }
}

/// The lines of the next weights that are still to be prefetched.
struct Fetch {
    line: *const i8,
    left: usize,
}

/// Pixels `m..m + ROWS` of all channels that are needed.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn strips<const ROWS: usize>(args: &PanelArgs, m: usize, next: &mut Fetch) {
    // Both halves of a carried sum are needed; of a stored panel only what the tensor has.
    let nb_halves = if args.last { args.requant.dst.nb_halves() } else { 2 };
    for half in 0..nb_halves {
        let nb_fours = args.strips[half].groups[0];
        // SAFETY: the caller's.
        unsafe {
            if next.left >= nb_fours && nb_fours > 0 {
                tile::<ROWS, true>(args, m, half, next.line);
                next.line = next.line.wrapping_add(nb_fours * 64);
                next.left -= nb_fours;
            } else {
                tile::<ROWS, false>(args, m, half, next.line);
            }
        }
    }
}

/// One register tile: pixels `m..m + ROWS`, channels `8*half..8*half + 8` of the panel.
///
/// # Safety
/// As [`panel`], `m + ROWS <= nb_pixels` and `half < 2`.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn tile<const ROWS: usize, const FETCH: bool>(
    args: &PanelArgs,
    m: usize,
    half: usize,
    line: *const i8,
) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let Strip { mut weights, mut taps, groups: [fours, twos, ones] } = args.strips[half];
        let rows: [*const u8; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let partial = args.partial.wrapping_add(m * OC_PANEL + half * HALF);
        let mut acc: [__m256i; ROWS] = if args.first {
            [_mm256_loadu_si256(args.bias.add(half * HALF).cast()); ROWS]
        } else {
            from_fn(|r| _mm256_load_si256(partial.add(r * OC_PANEL).cast()))
        };
        let mut line = line;
        for _ in 0..fours {
            if FETCH {
                _mm_prefetch::<_MM_HINT_T1>(line);
                line = line.wrapping_add(64);
            }
            group::<ROWS, 4>(&mut acc, &rows, weights, taps);
            weights = weights.add(4 * QUAD_LEN);
            taps = taps.add(4);
        }
        for _ in 0..twos {
            group::<ROWS, 2>(&mut acc, &rows, weights, taps);
            weights = weights.add(2 * QUAD_LEN);
            taps = taps.add(2);
        }
        for _ in 0..ones {
            group::<ROWS, 1>(&mut acc, &rows, weights, taps);
            weights = weights.add(QUAD_LEN);
            taps = taps.add(1);
        }
        if !args.last {
            for r in 0..ROWS {
                _mm256_store_si256(partial.add(r * OC_PANEL).cast(), acc[r]);
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

/// Adds a group of `N` quads to each row's sums.
///
/// # Safety
/// `N` quads of `weights` (32-byte aligned) and `N` taps are readable, and 4 bytes of each row at
/// each tap.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn group<const ROWS: usize, const N: usize>(
    acc: &mut [__m256i; ROWS],
    rows: &[*const u8; ROWS],
    weights: *const i8,
    taps: *const u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let taps: [usize; N] = from_fn(|q| *taps.add(q) as usize);
        let weights: [__m256i; N] =
            from_fn(|q| _mm256_load_si256(weights.add(q * QUAD_LEN).cast()));
        for r in 0..ROWS {
            // Indices below N: `min` is for the branches that are not taken.
            let (t, w) = (|q: usize| taps[q.min(N - 1)], |q: usize| weights[q.min(N - 1)]);
            acc[r] = match N {
                4 => add_4(acc[r], rows[r], [t(0), t(1), t(2), t(3)], [w(0), w(1), w(2), w(3)]),
                2 => add_2(acc[r], rows[r], [t(0), t(1)], [w(0), w(1)]),
                _ => add_1(acc[r], rows[r], t(0), w(0)),
            };
        }
    }
}

/// `acc` plus the products of 4 quads. In assembly, because the compiler would gather all rows' loads
/// first, which needs more registers than there are.
///
/// # Safety
/// 4 bytes of `row` at each tap are readable, on a CPU with AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_4(mut acc: __m256i, row: *const u8, t: [usize; 4], w: [__m256i; 4]) -> __m256i {
    // SAFETY: reads what the caller says is readable, and writes three registers.
    unsafe {
        asm!(
            "vpbroadcastd {sum}, dword ptr [{row} + {t0}]",
            "vpbroadcastd {x}, dword ptr [{row} + {t1}]",
            "vpmaddubsw {sum}, {sum}, {w0}",
            "vpmaddubsw {x}, {x}, {w1}",
            "vpaddw {sum}, {sum}, {x}",
            "vpbroadcastd {x}, dword ptr [{row} + {t2}]",
            "vpmaddubsw {x}, {x}, {w2}",
            "vpaddw {sum}, {sum}, {x}",
            "vpbroadcastd {x}, dword ptr [{row} + {t3}]",
            "vpmaddubsw {x}, {x}, {w3}",
            "vpaddw {sum}, {sum}, {x}",
            "vpmaddwd {sum}, {sum}, {ones}",
            "vpaddd {acc}, {acc}, {sum}",
            row = in(reg) row,
            t0 = in(reg) t[0], t1 = in(reg) t[1], t2 = in(reg) t[2], t3 = in(reg) t[3],
            w0 = in(ymm_reg) w[0], w1 = in(ymm_reg) w[1],
            w2 = in(ymm_reg) w[2], w3 = in(ymm_reg) w[3],
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            acc = inout(ymm_reg) acc,
            sum = out(ymm_reg) _,
            x = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    acc
}

/// As [`add_4`], of 2 quads.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_2(mut acc: __m256i, row: *const u8, t: [usize; 2], w: [__m256i; 2]) -> __m256i {
    // SAFETY: reads what the caller says is readable, and writes three registers.
    unsafe {
        asm!(
            "vpbroadcastd {sum}, dword ptr [{row} + {t0}]",
            "vpbroadcastd {x}, dword ptr [{row} + {t1}]",
            "vpmaddubsw {sum}, {sum}, {w0}",
            "vpmaddubsw {x}, {x}, {w1}",
            "vpaddw {sum}, {sum}, {x}",
            "vpmaddwd {sum}, {sum}, {ones}",
            "vpaddd {acc}, {acc}, {sum}",
            row = in(reg) row,
            t0 = in(reg) t[0], t1 = in(reg) t[1],
            w0 = in(ymm_reg) w[0], w1 = in(ymm_reg) w[1],
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            acc = inout(ymm_reg) acc,
            sum = out(ymm_reg) _,
            x = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    acc
}

/// As [`add_4`], of 1 quad.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_1(mut acc: __m256i, row: *const u8, tap: usize, weights: __m256i) -> __m256i {
    // SAFETY: reads what the caller says is readable, and writes two registers.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{row} + {tap}]",
            "vpmaddubsw {x}, {x}, {w}",
            "vpmaddwd {x}, {x}, {ones}",
            "vpaddd {acc}, {acc}, {x}",
            row = in(reg) row,
            tap = in(reg) tap,
            w = in(ymm_reg) weights,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            acc = inout(ymm_reg) acc,
            x = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    acc
}
