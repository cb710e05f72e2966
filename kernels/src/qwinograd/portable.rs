//! The transforms for any CPU, on `wide`'s vectors of 128 bits, which the baselines of x86-64 and
//! aarch64 have in hardware.

use wide::{i16x8, i32x8};

use super::f2x2_3x3::F2x2;
use super::f4x4_3x3::F4x4;
use super::tiles::{self, Transform};
use super::{FilterArgs, InputArgs, Kernel, OutputArgs, multiply};
use crate::isa::Isa;

/// F(2x2, 3x3).
pub const F2X2: Kernel = kernel::<F2x2>("portable-qwinograd-f2x2");
/// F(4x4, 3x3).
pub const F4X4: Kernel = kernel::<F4x4>("portable-qwinograd-f4x4");

const fn kernel<F: Transform>(name: &'static str) -> Kernel {
    Kernel {
        name,
        isa: Isa::Portable,
        variant: F::VARIANT,
        filter: transform_filter::<F>,
        input: transform_input::<F>,
        output: transform_output::<F>,
        multiply: multiply::portable::multiply,
    }
}

/// # Safety
/// As [`Kernel::transform_filter_raw`].
unsafe fn transform_filter<F: Transform>(args: &FilterArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_filter::<F, i16x8>(args) }
}

/// # Safety
/// As [`Kernel::transform_input_raw`].
unsafe fn transform_input<F: Transform>(args: &InputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_input::<F, i16x8>(args) }
}

/// # Safety
/// As [`Kernel::transform_output_raw`].
unsafe fn transform_output<F: Transform>(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe { tiles::transform_output::<F, i32x8>(args) }
}
