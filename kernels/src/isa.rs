//! Instruction set tiers, their detection, and the tokens that prove one is present.

use std::fmt;
use std::str::FromStr;

/// An instruction set tier, in ascending order of preference on one architecture.
///
/// | tier | CPU flags it implies |
/// |---|---|
/// | `portable` | the target's baseline (SSE2 on x86-64, NEON on aarch64), through `wide` |
/// | `avx2` | AVX2, FMA and F16C |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// The target's baseline.
    Portable,
    /// AVX2 + FMA + F16C.
    Avx2,
}

impl Isa {
    /// All tiers, ascending.
    pub const ALL: &[Self] = &[Self::Portable, Self::Avx2];

    /// Name in environment variables, file tags and dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
        }
    }

    /// Whether this CPU (and operating system) can run the tier.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => Avx2::detect().is_some(),
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

/// Proof that AVX2, FMA and F16C are present: only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if this CPU and operating system have the tier.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            return Some(Self(()));
        }
        None
    }
}
