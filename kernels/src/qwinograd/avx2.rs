//! The transforms for AVX2: 16 channels per vector of inputs and filters, 8 of sums.

use super::f2x2_3x3::F2x2;
use super::f4x4_3x3::F4x4;
use super::tiles::{self, Transform};
use super::vector::avx2::{I16x16, I32x8};
use super::{FilterArgs, InputArgs, Kernel, OutputArgs, multiply};
use crate::isa::Isa;

/// F(2x2, 3x3).
pub const F2X2: Kernel = kernel::<F2x2>("avx2-qwinograd-f2x2");
/// F(4x4, 3x3).
pub const F4X4: Kernel = kernel::<F4x4>("avx2-qwinograd-f4x4");

const fn kernel<F: Transform>(name: &'static str) -> Kernel {
    Kernel {
        name,
        isa: Isa::Avx2,
        variant: F::VARIANT,
        filter: transform_filter::<F>,
        input: transform_input::<F>,
        output: transform_output::<F>,
        multiply: multiply::avx2::multiply,
    }
}

/// # Safety
/// As [`Kernel::transform_filter_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_filter<F: Transform>(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F, I16x16>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_input<F: Transform>(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F, I16x16>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_output<F: Transform>(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F, I32x8>(args) }
}
