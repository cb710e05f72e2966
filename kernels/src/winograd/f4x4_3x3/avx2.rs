//! F(4x4, 3x3) for AVX2 + FMA: 8 channels per vector.

use std::arch::x86_64::__m256;

use half::f16;

use super::super::tiles;
use super::super::vector::Source;
use super::super::{FilterArgs, InputArgs, Kernel, OutputArgs, Variant, multiply};
use super::F4x4;
use crate::isa::Isa;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "avx2-winograd-f4x4",
    isa: Isa::Avx2,
    variant: Variant::F4,
    filter: transform_filter::<f32>,
    half_filter: transform_filter::<f16>,
    input: transform_input,
    output: transform_output,
    multiply: multiply::avx2::multiply,
};

/// # Safety
/// As [`Kernel::transform_filter_raw`], on a CPU with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn transform_filter<S: Source>(args: &FilterArgs<S>) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F4x4, __m256, S>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn transform_input(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F4x4, __m256>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn transform_output(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe {
        if args.residual.is_null() {
            tiles::transform_output::<F4x4, __m256, false>(args);
        } else {
            tiles::transform_output::<F4x4, __m256, true>(args);
        }
    }
}
