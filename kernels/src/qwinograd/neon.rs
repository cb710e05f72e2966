//! The transforms for NEON: 8 channels per vector of inputs and filters, 8 per pair of vectors of sums.

use std::arch::aarch64::int16x8_t;

use super::f2x2_3x3::F2x2;
use super::f4x4_3x3::F4x4;
use super::tiles::{self, Transform};
use super::vector::neon::I32x8;
use super::{FilterArgs, InputArgs, Kernel, OutputArgs, multiply};
use crate::isa::Isa;

/// F(2x2, 3x3).
pub const F2X2: Kernel = kernel::<F2x2>("neon-qwinograd-f2x2");
/// F(4x4, 3x3).
pub const F4X4: Kernel = kernel::<F4x4>("neon-qwinograd-f4x4");

const fn kernel<F: Transform>(name: &'static str) -> Kernel {
    Kernel {
        name,
        isa: Isa::Neon,
        variant: F::VARIANT,
        filter: transform_filter::<F>,
        input: transform_input::<F>,
        output: transform_output::<F>,
        multiply: multiply::neon::multiply,
    }
}

/// # Safety
/// As [`Kernel::transform_filter_raw`].
unsafe fn transform_filter<F: Transform>(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F, int16x8_t>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`].
unsafe fn transform_input<F: Transform>(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F, int16x8_t>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`].
unsafe fn transform_output<F: Transform>(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F, I32x8>(args) }
}
