//! The transforms for AVX2 + FMA: 8 channels per vector.

use std::arch::x86_64::__m256;

use half::f16;

use super::f2x2_3x3::F2x2;
use super::f2x2_3x3_s2::F2x2S2;
use super::f4x4_3x3::F4x4;
use super::f6x6_3x3::F6x6;
use super::tiles::{self, Transform};
use super::vector::Source;
use super::{FilterArgs, InputArgs, Kernel, OutputArgs, multiply};
use crate::isa::Isa;

/// F(2x2, 3x3).
pub const F2X2: Kernel = kernel::<F2x2>("avx2-winograd-f2x2");
/// F(4x4, 3x3).
pub const F4X4: Kernel = kernel::<F4x4>("avx2-winograd-f4x4");
/// F(6x6, 3x3).
pub const F6X6: Kernel = kernel::<F6x6>("avx2-winograd-f6x6");
/// F(2x2, 3x3) of stride 2.
pub const F2X2_S2: Kernel = kernel::<F2x2S2>("avx2-winograd-f2x2-s2");

const fn kernel<F: Transform>(name: &'static str) -> Kernel {
    Kernel {
        name,
        isa: Isa::Avx2,
        variant: F::VARIANT,
        filter: transform_filter::<F, f32>,
        half_filter: transform_filter::<F, f16>,
        input: transform_input::<F>,
        output: transform_output::<F>,
        multiply: multiply::avx2::multiply,
    }
}

/// # Safety
/// As [`Kernel::transform_filter_raw`], on a CPU with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn transform_filter<F: Transform, S: Source>(args: &FilterArgs<S>) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F, __m256, S>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn transform_input<F: Transform>(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F, __m256>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`], on a CPU with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn transform_output<F: Transform>(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F, __m256>(args) }
}
