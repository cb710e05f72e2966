//! F(4x4, 3x3) for NEON: 4 channels per vector.

use std::arch::aarch64::float32x4_t;

use half::f16;

use super::super::tiles;
use super::super::vector::Source;
use super::super::{FilterArgs, InputArgs, Kernel, OutputArgs, Variant, multiply};
use super::F4x4;
use crate::isa::Isa;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "neon-winograd-f4x4",
    isa: Isa::Neon,
    variant: Variant::F4,
    filter: transform_filter::<f32>,
    half_filter: transform_filter::<f16>,
    input: transform_input,
    output: transform_output,
    multiply: multiply::neon::multiply,
};

/// # Safety
/// As [`Kernel::transform_filter_raw`].
unsafe fn transform_filter<S: Source>(args: &FilterArgs<S>) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F4x4, float32x4_t, S>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`].
unsafe fn transform_input(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F4x4, float32x4_t>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`].
unsafe fn transform_output(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe {
        if args.residual.is_null() {
            tiles::transform_output::<F4x4, float32x4_t, false>(args);
        } else {
            tiles::transform_output::<F4x4, float32x4_t, true>(args);
        }
    }
}
