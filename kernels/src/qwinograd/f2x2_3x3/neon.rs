//! F(2x2, 3x3) for NEON: 8 channels per vector of inputs and filters, 8 per pair of vectors of sums.

use std::arch::aarch64::int16x8_t;

use super::super::tiles;
use super::super::vector::neon::I32x8;
use super::super::{FilterArgs, InputArgs, Kernel, OutputArgs, Variant, multiply};
use super::F2x2;
use crate::isa::Isa;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "neon-qwinograd-f2x2",
    isa: Isa::Neon,
    variant: Variant::F2,
    filter: transform_filter,
    input: transform_input,
    output: transform_output,
    multiply: multiply::neon::multiply,
};

/// # Safety
/// As [`Kernel::transform_filter_raw`].
unsafe fn transform_filter(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F2x2, int16x8_t>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`].
unsafe fn transform_input(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F2x2, int16x8_t>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`].
unsafe fn transform_output(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F2x2, I32x8>(args) }
}
