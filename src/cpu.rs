//! Which CPU this is, as far as measured times depend on it.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Bytes of the second cache level of a core; 0 if unknown.
fn l2_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| detect::cache_bytes(2))
}

/// Bytes of L2 that plans count on: this CPU's, within the sizes of target CPUs.
pub(crate) fn planned_l2_bytes() -> usize {
    l2_bytes().clamp(512 << 10, 2 << 20) as usize
}

/// A CPU model and its caches: equal for machines on which the same choices are fastest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cpu {
    /// Vendor, family, model and marketing name, e.g. `AuthenticAMD 25/17 AMD EPYC`; `unknown` with
    /// the architecture where the system does not tell.
    pub name: String,
    /// Bytes of the second cache level of a core; 0 if unknown.
    pub l2_bytes: u64,
    /// Bytes of the third cache level; 0 if there is none, or it is unknown.
    pub l3_bytes: u64,
}

impl Cpu {
    /// The CPU this runs on: by the CPUID instruction on x86-64, elsewhere by what Linux says.
    pub fn detect() -> Self {
        let name = detect::name().unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH));
        Self { name, l2_bytes: l2_bytes(), l3_bytes: detect::cache_bytes(3) }
    }

    /// Whether the system told which CPU it is.
    pub fn is_known(&self) -> bool {
        !self.name.starts_with("unknown")
    }
}

#[cfg(target_arch = "x86_64")]
mod detect {
    use std::arch::x86_64::{__cpuid_count, CpuidResult};

    #[allow(unused_unsafe, reason = "the intrinsic is safe in later versions of Rust")]
    fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
        // SAFETY: every x86-64 CPU has the instruction; a leaf it lacks gives other values.
        unsafe { __cpuid_count(leaf, subleaf) }
    }

    /// The highest leaf of the range that starts at `base`.
    fn highest(base: u32) -> u32 {
        cpuid(base, 0).eax
    }

    fn text(registers: impl IntoIterator<Item = u32>) -> String {
        let bytes: Vec<u8> = registers.into_iter().flat_map(u32::to_le_bytes).collect();
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<_> = text.split(['\0', ' ']).filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }

    pub(super) fn name() -> Option<String> {
        let CpuidResult { ebx, ecx, edx, .. } = cpuid(0, 0);
        let vendor = text([ebx, edx, ecx]);
        let version = cpuid(1, 0).eax;
        let field = |shift: u32, bits: u32| version >> shift & ((1 << bits) - 1);
        let (family, model) = (field(8, 4), field(4, 4) | field(16, 4) << 4);
        let family = if family == 15 { family + field(20, 8) } else { family };
        let brand = if highest(1 << 31) >= 0x8000_0004 {
            text((0x8000_0002..=0x8000_0004).flat_map(|leaf| {
                let CpuidResult { eax, ebx, ecx, edx } = cpuid(leaf, 0);
                [eax, ebx, ecx, edx]
            }))
        } else {
            String::new()
        };
        let name = format!("{vendor} {family}/{model} {brand}");
        (!vendor.is_empty()).then(|| name.trim_end().to_owned())
    }

    pub(super) fn cache_bytes(level: u32) -> u64 {
        // Both vendors describe one cache per subleaf in the same fields: Intel in leaf 4, AMD in
        // 8000001D.
        let leaf = if highest(1 << 31) >= 0x8000_001d && cpuid(0x8000_001d, 0).eax & 31 != 0 {
            0x8000_001d
        } else if highest(0) >= 4 {
            4
        } else {
            return 0;
        };
        let caches = (0..16).map(|i| cpuid(leaf, i)).take_while(|c| c.eax & 31 != 0);
        let bytes = |c: CpuidResult| {
            let field = |shift: u32, bits: u32| u64::from(c.ebx >> shift & ((1 << bits) - 1)) + 1;
            field(22, 10) * field(12, 10) * field(0, 12) * (u64::from(c.ecx) + 1)
        };
        // Instruction caches are kind 2.
        let wanted = |c: &CpuidResult| c.eax >> 5 & 7 == level && c.eax & 31 != 2;
        caches.filter(wanted).map(bytes).max().unwrap_or(0)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod detect {
    use std::fs;

    pub(super) fn name() -> Option<String> {
        let info = fs::read_to_string("/proc/cpuinfo").ok()?;
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let (implementer, part) = (field("CPU implementer")?, field("CPU part")?);
        let variant = field("CPU variant").unwrap_or_default();
        Some(format!("{} {implementer}/{part}/{variant}", std::env::consts::ARCH))
    }

    pub(super) fn cache_bytes(level: u32) -> u64 {
        let folder = "/sys/devices/system/cpu/cpu0/cache";
        let read = |index: usize, file: &str| {
            fs::read_to_string(format!("{folder}/index{index}/{file}")).ok()
        };
        let size = |index: usize| {
            let size = read(index, "size")?;
            let kib: u64 = size.trim().strip_suffix('K')?.parse().ok()?;
            let wanted = read(index, "level")?.trim().parse() == Ok(level)
                && read(index, "type")?.trim() != "Instruction";
            wanted.then_some(kib << 10)
        };
        (0..16).filter_map(size).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_is_stable_and_plausible() {
        let cpu = Cpu::detect();
        assert_eq!(cpu, Cpu::detect());
        assert!(!cpu.name.is_empty() && !cpu.name.contains(char::is_control), "{cpu:?}");
        for bytes in [cpu.l2_bytes, cpu.l3_bytes] {
            assert!(bytes == 0 || (64 << 10..4 << 30).contains(&bytes), "{cpu:?}");
        }
    }
}
