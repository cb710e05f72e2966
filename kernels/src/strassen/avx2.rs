//! `strassen` for AVX2. See the module above.

use std::arch::x86_64::*;

use super::{Kernel, SourceArgs, WeightArgs, WeightSum};
use crate::arrays::map;
use crate::isa::Isa;
use crate::layout::C_BLOCK;

/// The registry entry.
pub const KERNEL: Kernel =
    Kernel { name: "avx2-strassen", isa: Isa::Avx2, split_source, add_weights };

/// # Safety
/// As [`Kernel::split_source_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn split_source(args: &SourceArgs) {
    for pair in 0..args.nb_pairs {
        // SAFETY: every offset is one that the contract covers.
        unsafe {
            let at = map(args.pixels, |offsets| *offsets.add(pair) as usize);
            let load = |plane: usize, pixel: usize| _mm256_loadu_ps(args.planes[plane].add(at[pixel]));
            let [a11, a12, a21, a22] = [load(0, 0), load(1, 0), load(0, 1), load(1, 1)];
            let s1 = _mm256_add_ps(a21, a22);
            let s2 = _mm256_sub_ps(s1, a11);
            let s3 = _mm256_sub_ps(a11, a21);
            let s4 = _mm256_sub_ps(a12, s2);
            for (product, operand) in [a11, a12, s4, a22, s1, s2, s3].into_iter().enumerate() {
                _mm256_store_ps(args.dst.add(product * args.dst_stride + pair * C_BLOCK), operand);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::add_weights_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn add_weights(args: &WeightArgs) {
    // SAFETY: the caller's.
    unsafe {
        match args.sum {
            WeightSum::T1 => each(args, |[b11, b12, _, _]| _mm256_sub_ps(b12, b11)),
            WeightSum::T2 => {
                each(args, |[b11, b12, _, b22]| _mm256_sub_ps(b22, _mm256_sub_ps(b12, b11)))
            }
            WeightSum::T3 => each(args, |[_, b12, _, b22]| _mm256_sub_ps(b22, b12)),
            WeightSum::T4 => each(args, |[b11, b12, b21, b22]| {
                _mm256_sub_ps(b21, _mm256_sub_ps(b22, _mm256_sub_ps(b12, b11)))
            }),
        }
    }
}

/// # Safety
/// As [`Kernel::add_weights_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn each(args: &WeightArgs, sum: impl Fn([__m256; 4]) -> __m256) {
    for i in (0..args.len).step_by(C_BLOCK) {
        // SAFETY: `i` is in each quarter; all are aligned to whole vectors.
        unsafe {
            let quarters = map(args.quarters, |quarter| _mm256_load_ps(quarter.add(i)));
            _mm256_store_ps(args.dst.add(i), sum(quarters));
        }
    }
}
