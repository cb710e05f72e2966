//! Requantization with AVX2. What is done to the plain form:
//!
//! 1. A result above the bounds is cut by one `vminps` before the conversion. One below is left to
//!    the conversion and the saturating packs: even `i32::MIN`, which `vcvtps2dq` yields for what
//!    does not fit, comes out of them as the smallest value.
//! 2. 32 results are packed in one vector: 8 channels of four pixels, which leave it 8 bytes at a time, or 16 of two.
//! 3. It is part of the micro-kernel that has the sums in registers: a call would pass them in memory.

use std::arch::x86_64::*;

use super::{Dst, HALF, Requant};
use crate::arrays::map;

/// Stores channels `8*half..8*half + 8` of `ROWS` pixels.
///
/// # Safety
/// As [`store`].
#[target_feature(enable = "avx2")]
#[inline(never)]
pub unsafe fn store_by_call<const ROWS: usize>(
    q: &Requant,
    acc: &[__m256i; ROWS],
    half: usize,
    dst_pixels: &[usize; ROWS],
    res_pixels: &[usize; ROWS],
) {
    // SAFETY: the contract is the caller's.
    unsafe { store(q, acc, half, dst_pixels, res_pixels) }
}

/// The same, inlined into a function that enables AVX2.
///
/// # Safety
/// As [`super::portable::store`] for each pixel, on a CPU with AVX2.
#[inline(always)]
pub unsafe fn store<const ROWS: usize>(
    q: &Requant,
    acc: &[__m256i; ROWS],
    half: usize,
    dst_pixels: &[usize; ROWS],
    res_pixels: &[usize; ROWS],
) {
    // SAFETY: the contract is the caller's.
    unsafe {
        let t = steps(q, acc, half, res_pixels);
        match q.dst {
            Dst::U8 { dst, zero_point, bounds } => {
                let dst = dst.add(half * HALF);
                store_u8(&t, zero_point, bounds, dst, dst_pixels);
            }
            Dst::F32 { .. } => store_f32(q, &t, half, dst_pixels),
        }
    }
}

/// The same of both halves, as far as the destination has them.
///
/// # Safety
/// As [`store`].
#[inline(always)]
pub unsafe fn store_both<const ROWS: usize>(
    q: &Requant,
    acc: &[[__m256i; ROWS]; 2],
    dst_pixels: &[usize; ROWS],
    res_pixels: &[usize; ROWS],
) {
    // SAFETY: the contract is the caller's; a u8 destination has both halves.
    unsafe {
        // No loop over halves: sums with a varying index would live in memory.
        match q.dst {
            Dst::U8 { dst, zero_point, bounds } => {
                let t = [steps(q, &acc[0], 0, res_pixels), steps(q, &acc[1], 1, res_pixels)];
                store_both_u8(&t, zero_point, bounds, dst, dst_pixels);
            }
            Dst::F32 { nb_blocks, .. } => {
                store_f32(q, &steps(q, &acc[0], 0, res_pixels), 0, dst_pixels);
                if nb_blocks > 1 {
                    store_f32(q, &steps(q, &acc[1], 1, res_pixels), 1, dst_pixels);
                }
            }
        }
    }
}

/// Results before they are rounded and bounded.
///
/// # Safety
/// As [`store`].
#[inline(always)]
unsafe fn steps<const ROWS: usize>(
    q: &Requant,
    acc: &[__m256i; ROWS],
    half: usize,
    res_pixels: &[usize; ROWS],
) -> [__m256; ROWS] {
    // SAFETY: the contract is the caller's.
    unsafe {
        let scale = _mm256_loadu_ps(q.scale.add(half * HALF));
        let mut t = [_mm256_setzero_ps(); ROWS];
        for r in 0..ROWS {
            t[r] = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[r]), scale);
        }
        if let Some(before) = q.before_add {
            let [min, max] = map(before.bounds, |b| _mm256_set1_ps(b));
            let scale = _mm256_set1_ps(before.scale);
            for r in 0..ROWS {
                // `vmaxps` yields its second operand where one is no number: the lower bound.
                let cut = _mm256_min_ps(_mm256_max_ps(t[r], min), max);
                let rounded =
                    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(cut);
                t[r] = _mm256_mul_ps(rounded, scale);
            }
        }
        if let Some(residual) = q.residual {
            let zero = _mm256_set1_epi32(i32::from(residual.zero_point));
            let scale = _mm256_set1_ps(residual.scale);
            for r in 0..ROWS {
                let from = residual.src.add(res_pixels[r] + half * HALF);
                let steps = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
                let steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(steps, zero));
                t[r] = _mm256_add_ps(t[r], _mm256_mul_ps(steps, scale));
            }
        }
        t
    }
}

/// # Safety
/// As [`store`]; the destination is of f32.
#[inline(always)]
unsafe fn store_f32<const ROWS: usize>(
    q: &Requant,
    t: &[__m256; ROWS],
    half: usize,
    pixels: &[usize; ROWS],
) {
    let Dst::F32 { dst, block_stride, bounds, .. } = q.dst else { return };
    // SAFETY: the caller's.
    unsafe {
        let [min, max] = map(bounds, |b| _mm256_set1_ps(b));
        for r in 0..ROWS {
            let v = _mm256_min_ps(_mm256_max_ps(t[r], min), max);
            _mm256_storeu_ps(dst.add(pixels[r] + half * block_stride), v);
        }
    }
}

/// # Safety
/// 8 bytes of `dst` at each of `pixels` are writable, on a CPU with AVX2.
#[inline(always)]
unsafe fn store_u8<const ROWS: usize>(
    t: &[__m256; ROWS],
    zero_point: u8,
    bounds: [u8; 2],
    dst: *mut u8,
    pixels: &[usize; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        for first in (0..ROWS).step_by(4) {
            // Rows that are not there repeat the last.
            let at = |i: usize| (first + i).min(ROWS - 1);
            let [low, high] = to_u8([t[at(0)], t[at(1)], t[at(2)], t[at(3)]], zero_point, bounds);
            for (i, v) in [low, _mm_unpackhi_epi64(low, low), high, _mm_unpackhi_epi64(high, high)]
                .into_iter()
                .enumerate()
            {
                if first + i < ROWS {
                    _mm_storel_epi64(dst.add(pixels[first + i]).cast(), v);
                }
            }
        }
    }
}

/// As [`store_u8`], of both halves.
///
/// # Safety
/// 16 bytes of `dst` at each of `pixels` are writable, on a CPU with AVX2.
#[inline(always)]
unsafe fn store_both_u8<const ROWS: usize>(
    t: &[[__m256; ROWS]; 2],
    zero_point: u8,
    bounds: [u8; 2],
    dst: *mut u8,
    pixels: &[usize; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        for first in (0..ROWS).step_by(2) {
            let second = (first + 1).min(ROWS - 1);
            let of_two = [t[0][first], t[1][first], t[0][second], t[1][second]];
            let [low, high] = to_u8(of_two, zero_point, bounds);
            _mm_storeu_si128(dst.add(pixels[first]).cast(), low);
            if second > first {
                _mm_storeu_si128(dst.add(pixels[second]).cast(), high);
            }
        }
    }
}

/// Rounds 4 times 8 results, and bounds them: 32 bytes in their order.
///
/// # Safety
/// On a CPU with AVX2.
#[inline(always)]
unsafe fn to_u8(t: [__m256; 4], zero_point: u8, [lo, hi]: [u8; 2]) -> [__m128i; 2] {
    // SAFETY: the caller's.
    unsafe {
        let zero = i16::from(zero_point);
        let max = _mm256_set1_ps(f32::from(i16::from(hi) - zero));
        let (zero, lo) = (_mm256_set1_epi16(zero), _mm256_set1_epi8(lo as i8));
        let mut steps = [zero; 4];
        for i in 0..4 {
            steps[i] = _mm256_cvtps_epi32(_mm256_min_ps(max, t[i]));
        }
        let first = _mm256_adds_epi16(_mm256_packs_epi32(steps[0], steps[1]), zero);
        let second = _mm256_adds_epi16(_mm256_packs_epi32(steps[2], steps[3]), zero);
        // Dwords of 4 results: the first of each 8 in the low lane, the others in the high.
        let bytes = _mm256_max_epu8(_mm256_packus_epi16(first, second), lo);
        let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(bytes, in_order);
        [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)]
    }
}
