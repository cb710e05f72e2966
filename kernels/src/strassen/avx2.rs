//! `strassen` for AVX2. See the module above.

use std::arch::x86_64::*;

use super::{Kernel, SourceArgs, WeightArgs};
use crate::arrays::map;
use crate::isa::Isa;
use crate::layout::C_BLOCK;

/// The registry entry.
pub const KERNEL: Kernel =
    Kernel { name: "avx2-strassen", isa: Isa::Avx2, add_source, add_weights };

/// # Safety
/// As [`Kernel::add_source_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn add_source(args: &SourceArgs) {
    for pair in 0..args.nb_pairs {
        // SAFETY: every offset is one that the contract covers.
        unsafe {
            let [first, second] = map(args.pixels, |offsets| *offsets.add(pair) as usize);
            let [a11, a12] = map(args.planes, |plane| _mm256_loadu_ps(plane.add(first)));
            let [a21, a22] = map(args.planes, |plane| _mm256_loadu_ps(plane.add(second)));
            let s1 = _mm256_add_ps(a21, a22);
            let s2 = _mm256_sub_ps(s1, a11);
            let s3 = _mm256_sub_ps(a11, a21);
            let s4 = _mm256_sub_ps(a12, s2);
            for (i, s) in [s1, s2, s3, s4].into_iter().enumerate() {
                _mm256_store_ps(args.sums.add(i * args.stride + pair * C_BLOCK), s);
            }
            if !args.copies.is_null() {
                for (i, a) in [a11, a12, a22].into_iter().enumerate() {
                    _mm256_store_ps(args.copies.add(i * args.stride + pair * C_BLOCK), a);
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel::add_weights_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn add_weights(args: &WeightArgs) {
    for at in (0..args.len).step_by(C_BLOCK) {
        // SAFETY: `at` is in each quarter; all are aligned to whole vectors.
        unsafe {
            let [b11, b12, b21, b22] = map(args.quarters, |b| _mm256_load_ps(b.add(at)));
            let t1 = _mm256_sub_ps(b12, b11);
            let t2 = _mm256_sub_ps(b22, t1);
            let t3 = _mm256_sub_ps(b22, b12);
            let t4 = _mm256_sub_ps(b21, t2);
            for (i, t) in [t1, t2, t3, t4].into_iter().enumerate() {
                _mm256_store_ps(args.sums.add(i * args.stride + at), t);
            }
        }
    }
}
