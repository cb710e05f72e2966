//! F(4x4, 3x3) for any CPU, on `wide`'s vectors of 128 bits, which the baselines of x86-64 and
//! aarch64 have in hardware.

use wide::{i16x8, i32x8};

use super::super::tiles;
use super::super::{FilterArgs, InputArgs, Kernel, OutputArgs, Variant, multiply};
use super::F4x4;
use crate::isa::Isa;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "portable-qwinograd-f4x4",
    isa: Isa::Portable,
    variant: Variant::F4,
    filter: transform_filter,
    input: transform_input,
    output: transform_output,
    multiply: multiply::portable::multiply,
};

/// # Safety
/// As [`Kernel::transform_filter_raw`].
unsafe fn transform_filter(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F4x4, i16x8>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`].
unsafe fn transform_input(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F4x4, i16x8>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`].
unsafe fn transform_output(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F4x4, i32x8>(args) }
}
