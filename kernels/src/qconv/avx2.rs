//! `qconv` for AVX2. See the module above for the loop nest and for groups; what is done to it here:
//!
//! 1. Where both strips have the same quads ([`PanelArgs::paired`]), a tile is 4 pixels by 16 channels: 8 accumulators,
//!    1 broadcast quad, 2 sums in i16, 1 product, ones, and the weights of a group's first quad are 15 ymm. A broadcast
//!    serves both strips; other weights come from L1 as they are used.
//! 2. Else it is 8 pixels by 8 channels of a strip: 8 accumulators, a group's 4 weight vectors, a broadcast quad, a sum, and
//!    ones.
//! 3. Per pixel and strip, a group of 4 takes 5 multiplications where plain code takes 8: 4 `vpmaddubsw`, 3 `vpaddw`,
//!    1 `vpmaddwd` by ones, 1 `vpaddd`. The limit is not the 2 multiplications per cycle, which 2.5 cycles would do, but that
//!    additions share their pipes: a paired tile takes 2.93 on Zen 4. One with 13 instructions in place of 11 takes 3.10.
//! 4. The first tiles prefetch the next weights into L2, a line per group.

use crate::arrays::{from_fn, map};
use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, MR, PanelArgs, QUAD_LEN, Strip, row_tiles};
use crate::isa::Isa;
use crate::layout::OC_PANEL;
use crate::requant::{HALF, avx2::store, avx2::store_both};

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel::new("avx2-qconv-4x16", Isa::Avx2, true, u8::MAX, panel);

/// Tallest tile of both strips.
const PAIR_MR: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;

/// # Safety
/// As [`Kernel::run_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn panel(args: &PanelArgs) {
    // Both halves of a carried sum are needed; of a stored panel only what the tensor has.
    let nb_halves = if args.last { args.requant.dst.nb_halves() } else { 2 };
    let (rows, tall, short) = row_tiles(args.nb_pixels, if args.paired { PAIR_MR } else { MR });
    let mut next = Fetch { bytes: args.next_weights, nb_passes: 0 };
    let mut m = 0;
    for t in 0..tall + short {
        let rows = if t < tall { rows } else { rows - 1 };
        // SAFETY: the tiles partition `0..nb_pixels`; paired strips have the same taps and groups.
        unsafe {
            if args.paired {
                let ahead = next.pass(&args.strips[0]);
                match rows {
                    4 => pair::<4>(args, m, ahead),
                    3 => pair::<3>(args, m, ahead),
                    2 => pair::<2>(args, m, ahead),
                    _ => pair::<1>(args, m, ahead),
                }
            } else {
                for half in 0..nb_halves {
                    let ahead = next.pass(&args.strips[half]);
                    match rows {
                        8 => single::<8>(args, m, half, ahead),
                        7 => single::<7>(args, m, half, ahead),
                        6 => single::<6>(args, m, half, ahead),
                        5 => single::<5>(args, m, half, ahead),
                        4 => single::<4>(args, m, half, ahead),
                        3 => single::<3>(args, m, half, ahead),
                        2 => single::<2>(args, m, half, ahead),
                        _ => single::<1>(args, m, half, ahead),
                    }
                }
            }
        }
        m += rows;
    }
}

/// What is still to be prefetched of the next weights.
struct Fetch {
    bytes: (*const i8, usize),
    /// Tiles that prefetched.
    nb_passes: usize,
}

impl Fetch {
    /// How many bytes beyond a group's weights the line is that it prefetches; 0 when there is nothing left. A group of 4
    /// passes two lines of its strip, so a tile prefetches every other line of as many bytes, and the next one the rest.
    fn pass(&mut self, strip: &Strip) -> usize {
        let (next, len) = self.bytes;
        let at = self.nb_passes / 2 * strip.groups[0] * 2 * LINE + self.nb_passes % 2 * LINE;
        self.nb_passes += 1;
        if at < len { next.addr().wrapping_add(at).wrapping_sub(strip.weights.addr()) } else { 0 }
    }
}

/// Pixels `m..m + ROWS` of both strips; `ahead` as from [`Fetch::pass`].
///
/// # Safety
/// As [`panel`], `args.paired`, and `m + ROWS <= nb_pixels`.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn pair<const ROWS: usize>(args: &PanelArgs, m: usize, ahead: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let [Strip { mut taps, groups: [fours, threes, twos, ones], .. }, _] = args.strips;
        let mut weights = map([0, 1], |s: usize| args.strips[s].weights);
        let rows: [*const u8; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let partial = args.partial.wrapping_add(m * OC_PANEL).cast::<__m256i>();
        let mut acc: [[__m256i; ROWS]; 2] = if args.first {
            map([0, 1], |s: usize| [_mm256_loadu_si256(args.bias.add(s * HALF).cast()); ROWS])
        } else {
            map([0, 1], |s: usize| from_fn(|r| _mm256_load_si256(partial.add(2 * r + s))))
        };
        for _ in 0..fours {
            _mm_prefetch::<_MM_HINT_T1>(weights[0].wrapping_add(ahead));
            pair_group::<ROWS, 4>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..threes {
            pair_group::<ROWS, 3>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..twos {
            pair_group::<ROWS, 2>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..ones {
            pair_group::<ROWS, 1>(&mut acc, &rows, &mut weights, &mut taps);
        }
        if !args.last {
            for r in 0..ROWS {
                for s in 0..2 {
                    _mm256_store_si256(partial.add(2 * r + s), acc[s][r]);
                }
            }
            return;
        }
        let (dst_pixels, res_pixels) = places(args, m);
        store_both(&args.requant, &acc, &dst_pixels, &res_pixels);
    }
}

/// Adds a group of `N` quads to each row's sums of both strips, and moves on to the next.
///
/// # Safety
/// `N` quads of each strip's weights (32-byte aligned) and `N` taps are readable, and 4 bytes of each row at
/// each tap.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn pair_group<const ROWS: usize, const N: usize>(
    acc: &mut [[__m256i; ROWS]; 2],
    rows: &[*const u8; ROWS],
    weights: &mut [*const i8; 2],
    taps: &mut *const u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let t: [usize; N] = from_fn(|q| *taps.add(q) as usize);
        // Indices below N: `min` is for the branches that are not taken.
        let tap = |q: usize| t[q.min(N - 1)];
        let first = map(*weights, |w: *const i8| _mm256_load_si256(w.cast()));
        for r in 0..ROWS {
            let x = broadcast(rows[r], tap(0));
            let mut sums = map(first, |w| _mm256_maddubs_epi16(x, w));
            if N > 1 {
                add_quad::<1>(&mut sums, rows[r], tap(1), *weights);
            }
            if N > 2 {
                add_quad::<2>(&mut sums, rows[r], tap(2), *weights);
            }
            if N > 3 {
                add_quad::<3>(&mut sums, rows[r], tap(3), *weights);
            }
            for s in 0..2 {
                acc[s][r] = widen_and_add(acc[s][r], sums[s]);
            }
        }
        *weights = map(*weights, |w: *const i8| w.add(N * QUAD_LEN));
        *taps = taps.add(N);
    }
}

/// Pixels `m..m + ROWS` of a strip; `ahead` as from [`Fetch::pass`].
///
/// # Safety
/// As [`panel`], `m + ROWS <= nb_pixels` and `half < 2`.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn single<const ROWS: usize>(args: &PanelArgs, m: usize, half: usize, ahead: usize) {
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers.
    unsafe {
        let Strip { mut weights, mut taps, groups: [fours, threes, twos, ones] } =
            args.strips[half];
        let rows: [*const u8; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let partial = args.partial.wrapping_add(m * OC_PANEL + half * HALF);
        let mut acc: [__m256i; ROWS] = if args.first {
            [_mm256_loadu_si256(args.bias.add(half * HALF).cast()); ROWS]
        } else {
            from_fn(|r| _mm256_load_si256(partial.add(r * OC_PANEL).cast()))
        };
        for _ in 0..fours {
            _mm_prefetch::<_MM_HINT_T1>(weights.wrapping_add(ahead));
            group::<ROWS, 4>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..threes {
            group::<ROWS, 3>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..twos {
            group::<ROWS, 2>(&mut acc, &rows, &mut weights, &mut taps);
        }
        for _ in 0..ones {
            group::<ROWS, 1>(&mut acc, &rows, &mut weights, &mut taps);
        }
        if !args.last {
            for r in 0..ROWS {
                _mm256_store_si256(partial.add(r * OC_PANEL).cast(), acc[r]);
            }
            return;
        }
        let (dst_pixels, res_pixels) = places(args, m);
        store(&args.requant, &acc, half, &dst_pixels, &res_pixels);
    }
}

/// Adds a group of `N` quads to each row's sums, and moves on to the next.
///
/// # Safety
/// As [`pair_group`], of one strip.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn group<const ROWS: usize, const N: usize>(
    acc: &mut [__m256i; ROWS],
    rows: &[*const u8; ROWS],
    weights: &mut *const i8,
    taps: &mut *const u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let taps_of: [usize; N] = from_fn(|q| *taps.add(q) as usize);
        let weights_of: [__m256i; N] =
            from_fn(|q| _mm256_load_si256(weights.add(q * QUAD_LEN).cast()));
        for r in 0..ROWS {
            let mut sum = _mm256_maddubs_epi16(broadcast(rows[r], taps_of[0]), weights_of[0]);
            for q in 1..N {
                let products = _mm256_maddubs_epi16(broadcast(rows[r], taps_of[q]), weights_of[q]);
                sum = _mm256_add_epi16(sum, products);
            }
            acc[r] = widen_and_add(acc[r], sum);
        }
        *weights = weights.add(N * QUAD_LEN);
        *taps = taps.add(N);
    }
}

/// A quad in all lanes. In assembly, as is [`add_quad`]: their order keeps the compiler from gathering all rows' loads
/// first, which needs more registers than there are.
///
/// # Safety
/// 4 bytes of `row` at `tap` are readable, on a CPU with AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn broadcast(row: *const u8, tap: usize) -> __m256i {
    let x;
    // SAFETY: reads what the caller says is readable, and writes a register.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{row} + {tap}]",
            row = in(reg) row,
            tap = in(reg) tap,
            x = lateout(ymm_reg) x,
            options(readonly, nostack, preserves_flags)
        );
    }
    x
}

/// Adds the products of a quad with both strips' weights, of which it is quad `Q`.
///
/// # Safety
/// As [`broadcast`], and `Q + 1` quads of each strip's weights are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_quad<const Q: usize>(
    sums: &mut [__m256i; 2],
    row: *const u8,
    tap: usize,
    weights: [*const i8; 2],
) {
    // SAFETY: reads what the caller says is readable, and writes four registers.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{row} + {tap}]",
            "vpmaddubsw {products}, {x}, ymmword ptr [{first} + {at}]",
            "vpmaddubsw {x}, {x}, ymmword ptr [{second} + {at}]",
            "vpaddw {sum_0}, {sum_0}, {products}",
            "vpaddw {sum_1}, {sum_1}, {x}",
            row = in(reg) row,
            tap = in(reg) tap,
            first = in(reg) weights[0],
            second = in(reg) weights[1],
            at = const Q * QUAD_LEN,
            sum_0 = inout(ymm_reg) sums[0],
            sum_1 = inout(ymm_reg) sums[1],
            x = out(ymm_reg) _,
            products = out(ymm_reg) _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// `acc` plus a group's sums in i16, of two for each output channel.
#[target_feature(enable = "avx2")]
#[inline]
fn widen_and_add(acc: __m256i, sums: __m256i) -> __m256i {
    _mm256_add_epi32(acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)))
}

/// Where the results of pixels `m..m + ROWS` go, and where their residuals are.
///
/// # Safety
/// As [`panel`], and `m + ROWS <= nb_pixels`.
#[inline]
unsafe fn places<const ROWS: usize>(args: &PanelArgs, m: usize) -> ([usize; ROWS], [usize; ROWS]) {
    // SAFETY: the tables have `nb_pixels` entries.
    unsafe {
        let dst_pixels = from_fn(|r| *args.dst_pixels.add(m + r) as usize);
        let res_pixels = match args.requant.residual {
            Some(_) => from_fn(|r| *args.res_pixels.add(m + r) as usize),
            None => [0; ROWS],
        };
        (dst_pixels, res_pixels)
    }
}
