//! The one list of kernels: dispatch, tests and benches iterate it.

use half::f16;

use crate::isa::Isa;
use crate::{qconv, qconv16, qsplit, qwinograd, sconv, winograd};

/// All `sconv` kernels, best last.
pub const SCONV: &[sconv::Kernel] = &[
    sconv::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    sconv::avx2::KERNEL,
    #[cfg(target_arch = "aarch64")]
    sconv::neon::KERNEL,
];

/// The best `sconv` kernel of a tier at most `isa`.
pub fn sconv(isa: Isa) -> sconv::Kernel {
    let fits = |k: &&sconv::Kernel| k.isa <= isa && k.isa.is_available();
    *SCONV.iter().rev().find(fits).expect("the portable kernel fits every tier")
}

/// All `hconv` kernels, best last.
pub const HCONV: &[sconv::Kernel<f16>] = &[
    sconv::portable::HALF,
    #[cfg(target_arch = "x86_64")]
    sconv::avx2::HALF,
    #[cfg(target_arch = "aarch64")]
    sconv::neon::HALF,
];

/// The best `hconv` kernel of a tier at most `isa`.
pub fn hconv(isa: Isa) -> sconv::Kernel<f16> {
    let fits = |k: &&sconv::Kernel<f16>| k.isa <= isa && k.isa.is_available();
    *HCONV.iter().rev().find(fits).expect("the portable kernel fits every tier")
}

/// All `qconv` kernels, best last.
pub const QCONV: &[qconv::Kernel] = &[
    qconv::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    qconv::avx2::KERNEL,
    #[cfg(target_arch = "aarch64")]
    qconv::neon::KERNEL,
    #[cfg(target_arch = "aarch64")]
    qconv::neon_dot::KERNEL,
    #[cfg(target_arch = "aarch64")]
    qconv::neon_dot::KERNEL_7_BIT,
    #[cfg(target_arch = "aarch64")]
    qconv::neon_i8mm::KERNEL,
];

/// The best `qconv` kernel of a tier at most `isa` for activations up to `max`.
pub fn qconv(isa: Isa, max: u8) -> qconv::Kernel {
    let fits = |k: &&qconv::Kernel| k.isa <= isa && k.isa.is_available() && k.max >= max;
    *QCONV.iter().rev().find(fits).expect("the portable kernel fits every tier and activation")
}

/// All `qconv16` kernels, best last.
pub const QCONV16: &[qconv16::Kernel] = &[
    qconv16::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    qconv16::avx2::KERNEL,
];

/// The best `qconv16` kernel of a tier at most `isa`.
pub fn qconv16(isa: Isa) -> qconv16::Kernel {
    let fits = |k: &&qconv16::Kernel| k.isa <= isa && k.isa.is_available();
    *QCONV16.iter().rev().find(fits).expect("the portable kernel fits every tier")
}

/// All `qsplit` kernels, best last.
pub const QSPLIT: &[qsplit::Kernel] = &[
    qsplit::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    qsplit::avx2::KERNEL,
];

/// The best `qsplit` kernel of a tier at most `isa`.
pub fn qsplit(isa: Isa) -> qsplit::Kernel {
    let fits = |k: &&qsplit::Kernel| k.isa <= isa && k.isa.is_available();
    *QSPLIT.iter().rev().find(fits).expect("the portable kernel fits every tier")
}

/// All Winograd transforms, best last.
pub const WINOGRAD: &[winograd::Kernel] = &[
    winograd::portable::F2X2,
    winograd::portable::F4X4,
    winograd::portable::F6X6,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F2X2,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F4X4,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F6X6,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F2X2,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F4X4,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F6X6,
];

/// The best Winograd transforms of a variant, of a tier at most `isa`.
pub fn winograd(variant: winograd::Variant, isa: Isa) -> winograd::Kernel {
    let fits = |k: &&winograd::Kernel| k.variant == variant && k.isa <= isa && k.isa.is_available();
    *WINOGRAD.iter().rev().find(fits).expect("the portable kernels fit every tier")
}

/// All integer Winograd transforms, best last.
pub const QWINOGRAD: &[qwinograd::Kernel] = &[
    qwinograd::portable::F2X2,
    qwinograd::portable::F4X4,
    #[cfg(target_arch = "x86_64")]
    qwinograd::avx2::F2X2,
    #[cfg(target_arch = "x86_64")]
    qwinograd::avx2::F4X4,
    #[cfg(target_arch = "aarch64")]
    qwinograd::neon::F2X2,
    #[cfg(target_arch = "aarch64")]
    qwinograd::neon::F4X4,
];

/// The best integer Winograd transforms of a variant, of a tier at most `isa`.
pub fn qwinograd(variant: qwinograd::Variant, isa: Isa) -> qwinograd::Kernel {
    let fits =
        |k: &&qwinograd::Kernel| k.variant == variant && k.isa <= isa && k.isa.is_available();
    *QWINOGRAD.iter().rev().find(fits).expect("the portable kernels fit every tier")
}
