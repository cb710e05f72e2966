//! Instruction set tiers and their detection.

use std::fmt;
use std::str::FromStr;

/// An instruction set tier, in ascending order of preference on one architecture.
///
/// | tier | CPU flags it implies |
/// |---|---|
/// | `portable` | the target's baseline (SSE2 on x86-64, NEON on aarch64), through `wide` |
/// | `avx2` | AVX2, FMA and F16C |
/// | `neon` | NEON, which every aarch64 CPU has |
/// | `neon_dot` | `neon`, and the dot products of 8-bit integers (`dotprod`) |
/// | `neon_i8mm` | `neon_dot`, and those of unsigned by signed integers (`i8mm`) |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// The target's baseline.
    Portable,
    /// AVX2 + FMA + F16C.
    Avx2,
    /// NEON.
    Neon,
    /// NEON + `sdot`, `udot`.
    NeonDot,
    /// NEON + `sdot`, `udot`, `usdot`.
    NeonI8mm,
}

impl Isa {
    /// All tiers, ascending.
    pub const ALL: &[Self] =
        &[Self::Portable, Self::Avx2, Self::Neon, Self::NeonDot, Self::NeonI8mm];

    /// Name in environment variables, file tags and dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::NeonDot => "neon_dot",
            Self::NeonI8mm => "neon_i8mm",
        }
    }

    /// Whether this CPU (and operating system) can run the tier.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => {
                Self::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            _ => false,
        }
    }

    /// The best tier of this CPU.
    pub fn best() -> Self {
        let available = Self::ALL.iter().rev().find(|isa| isa.is_available());
        available.copied().unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;
    fn from_str(s: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.iter().copied().find(|isa| isa.name() == s).ok_or(UnknownIsa)
    }
}

/// No tier has this name.
#[derive(Clone, Copy, Debug)]
pub struct UnknownIsa;

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown instruction set, expected one of:")?;
        Isa::ALL.iter().try_for_each(|isa| write!(f, " {isa}"))
    }
}

impl std::error::Error for UnknownIsa {}
