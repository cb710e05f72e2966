//! F(4x4, 3x3) for AVX2: 16 channels per vector of inputs and filters, 8 of sums.

use super::super::tiles;
use super::super::vector::avx2::{I16x16, I32x8};
use super::super::{FilterArgs, InputArgs, Kernel, OutputArgs, Variant, multiply};
use super::F4x4;
use crate::isa::Isa;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "avx2-qwinograd-f4x4",
    isa: Isa::Avx2,
    variant: Variant::F4,
    filter: transform_filter,
    input: transform_input,
    output: transform_output,
    multiply: multiply::avx2::multiply,
};

/// # Safety
/// As [`Kernel::transform_filter_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_filter(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F4x4, I16x16>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_input(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F4x4, I16x16>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transform_output(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F4x4, I32x8>(args) }
}
