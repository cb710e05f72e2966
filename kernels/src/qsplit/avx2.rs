//! `qsplit` for AVX2. See the module above; sums stay in memory, since each found quad has a pixel of its own. Taps
//! are the outer loop of the search, so the pixel after a found one is mostly another, and no sum waits for
//! the one before.

use std::arch::x86_64::*;

use super::{AddArgs, Excess, Kernel, Windows, parts};
use crate::arrays::map;
use crate::isa::Isa;
use crate::layout::OC_PANEL;
use crate::qconv::{QUAD, QUAD_LEN, QUADS_PER_BLOCK};
use crate::requant::HALF;

/// The registry entry.
pub const KERNEL: Kernel = Kernel { name: "avx2-qsplit", isa: Isa::Avx2, split, find, add };

/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn split(src: &[u8], low: &mut [u8], high: &mut [u8]) {
    for ((a, low), high) in src.iter().zip(low).zip(high) {
        [*low, *high] = parts(*a);
    }
}

/// # Safety
/// The CPU has AVX2, and 16 bytes of `high` are readable at every pixel's every tap.
#[target_feature(enable = "avx2")]
unsafe fn find(windows: &Windows<'_>, found: &mut [Excess]) -> Option<usize> {
    let mut nb_found = 0;
    for (t, tap) in windows.taps.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let high = windows.high.as_ptr().add(*tap as usize);
            for (m, pixel) in windows.pixels.iter().enumerate() {
                let at = high.add(*pixel as usize);
                let block = _mm_loadu_si128(at.cast());
                if _mm_testz_si128(block, block) == 1 {
                    continue;
                }
                let zero = _mm_cmpeq_epi32(block, _mm_setzero_si128());
                let mut quads = !_mm_movemask_ps(_mm_castsi128_ps(zero)) & 15;
                while quads != 0 {
                    let q = quads.trailing_zeros() as usize;
                    quads &= quads - 1;
                    *found.get_mut(nb_found)? = Excess {
                        bytes: at.add(q * QUAD).cast::<[u8; QUAD]>().read(),
                        pixel: m as u32,
                        quad: (t * QUADS_PER_BLOCK + q) as u32,
                    };
                    nb_found += 1;
                }
            }
        }
    }
    Some(nb_found)
}

/// # Safety
/// As [`Kernel::add_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn add(args: &AddArgs) {
    // SAFETY: every offset is one that the contract covers.
    unsafe {
        let bias = map([0, HALF], |at| _mm256_loadu_si256(args.bias.add(at).cast()));
        for m in 0..args.nb_pixels {
            for (half, bias) in bias.into_iter().enumerate() {
                _mm256_store_si256(args.partial.add(m * OC_PANEL + half * HALF).cast(), bias);
            }
        }
        let ones = _mm256_set1_epi16(1);
        for i in 0..args.nb_found {
            let Excess { bytes, pixel, quad } = *args.found.add(i);
            let x = _mm256_set1_epi32(i32::from_ne_bytes(bytes));
            for half in 0..2 {
                let place = *args.places[half].add(quad as usize) as usize;
                let weights = _mm256_load_si256(args.weights.add(place * QUAD_LEN).cast());
                let sum = args.partial.add(pixel as usize * OC_PANEL + half * HALF).cast();
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(x, weights), ones);
                _mm256_store_si256(sum, _mm256_add_epi32(_mm256_load_si256(sum), products));
            }
        }
    }
}
