//! The one list of kernels: dispatch, tests and benches iterate it.

use crate::isa::Isa;
use crate::sconv;

/// All `sconv` kernels, best last.
pub const SCONV: &[sconv::Kernel] = &[
    sconv::portable::KERNEL,
    #[cfg(target_arch = "x86_64")]
    sconv::avx2::KERNEL,
];

/// The best `sconv` kernel of a tier at most `isa`.
pub fn sconv(isa: Isa) -> sconv::Kernel {
    let fits = |k: &&sconv::Kernel| k.isa <= isa && k.isa.is_available();
    *SCONV.iter().rev().find(fits).expect("the portable kernel fits every tier")
}
