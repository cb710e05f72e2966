//! The one list of kernels: dispatch, tests and benches iterate it.

use half::f16;

use crate::isa::Isa;
use crate::{qconv, qconv16, qsplit, qwinograd, sconv, strassen, winograd};

/// The last kernel that has `wanted` and whose tier is at most `isa`, and available.
fn best<K: Copy>(
    kernels: &[K],
    isa: Isa,
    tier: impl Fn(&K) -> Isa,
    wanted: impl Fn(&K) -> bool,
) -> K {
    let fits = |k: &&K| wanted(k) && tier(k) <= isa && tier(k).is_available();
    *kernels.iter().rev().find(fits).expect("portable kernels fit every tier and wish")
}

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
    best(SCONV, isa, |k| k.isa, |_| true)
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
    best(HCONV, isa, |k| k.isa, |_| true)
}

/// All `strassen` kernels, best last.
pub const STRASSEN: &[strassen::Kernel] = &[
    strassen::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    strassen::avx2::KERNEL,
];

/// The best `strassen` kernel of a tier at most `isa`.
pub fn strassen(isa: Isa) -> strassen::Kernel {
    best(STRASSEN, isa, |k| k.isa, |_| true)
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
    best(QCONV, isa, |k| k.isa, |k| k.max >= max)
}

/// All `qconv16` kernels, best last.
pub const QCONV16: &[qconv16::Kernel] = &[
    qconv16::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    qconv16::avx2::KERNEL,
];

/// The best `qconv16` kernel of a tier at most `isa`.
pub fn qconv16(isa: Isa) -> qconv16::Kernel {
    best(QCONV16, isa, |k| k.isa, |_| true)
}

/// All `qsplit` kernels, best last.
pub const QSPLIT: &[qsplit::Kernel] = &[
    qsplit::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    qsplit::avx2::KERNEL,
];

/// The best `qsplit` kernel of a tier at most `isa`.
pub fn qsplit(isa: Isa) -> qsplit::Kernel {
    best(QSPLIT, isa, |k| k.isa, |_| true)
}

/// All Winograd transforms, best last.
pub const WINOGRAD: &[winograd::Kernel] = &[
    winograd::portable::F2X2,
    winograd::portable::F4X4,
    winograd::portable::F6X6,
    winograd::portable::F2X2_S2,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F2X2,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F4X4,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F6X6,
    #[cfg(target_arch = "x86_64")]
    winograd::avx2::F2X2_S2,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F2X2,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F4X4,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F6X6,
    #[cfg(target_arch = "aarch64")]
    winograd::neon::F2X2_S2,
];

/// The best Winograd transforms of a variant, of a tier at most `isa`.
pub fn winograd(variant: winograd::Variant, isa: Isa) -> winograd::Kernel {
    best(WINOGRAD, isa, |k| k.isa, |k| k.variant == variant)
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
    best(QWINOGRAD, isa, |k| k.isa, |k| k.variant == variant)
}
