//! What the operating system says about this machine and process. Linux; elsewhere little is known.

use std::fs;
use std::path::{Path, PathBuf};

/// The CPU's marketing name.
pub(crate) fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let arm = || field("CPU part").map(|part| format!("{} part {part}", std::env::consts::ARCH));
    field("model name").or_else(arm).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The vector instructions that any kernel of this library, now or planned, could use.
pub(crate) fn cpu_features() -> Vec<&'static str> {
    let mut features = vec![];
    macro_rules! detect {
        ($is_detected:ident: $($name:tt)*) => {
            $(if std::arch::$is_detected!($name) { features.push($name); })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    detect!(is_x86_feature_detected: "sse4.1" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f"
        "avx512bw" "avx512vl" "avx512vnni" "avx512fp16" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    features
}

/// The largest amount of memory this process ever held, file pages included.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let kib: u64 = status("VmHWM")?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The CPUs this process may run on, e.g. `"0-3,8"`.
pub(crate) fn affinity() -> Option<String> {
    status("Cpus_allowed_list")
}

/// The machine's CPUs, e.g. `"0-7"`.
pub(crate) fn online_cpus() -> Option<String> {
    Some(fs::read_to_string("/sys/devices/system/cpu/online").ok()?.trim().to_owned())
}

fn status(field: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The smallest CPU quota of this process's control groups, in CPUs.
pub(crate) fn cgroup_quota_cpus() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let quotas = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next(), fields.next());
        match (controllers, group) {
            (Some(""), Some(group)) => quotas_above("/sys/fs/cgroup", group, quota_v2),
            (Some(list), Some(group)) if list.split(',').any(|c| c == "cpu") => {
                quotas_above(&format!("/sys/fs/cgroup/{list}"), group, quota_v1)
            }
            _ => vec![],
        }
    });
    quotas.min_by(f64::total_cmp)
}

/// Quotas of a group and of all its parents. In a container the group's path may be the host's, and
/// only the root is there.
fn quotas_above(root: &str, group: &str, quota: fn(&Path) -> Option<f64>) -> Vec<f64> {
    let folder = PathBuf::from(format!("{root}{group}"));
    folder.ancestors().take_while(|f| f.starts_with(root)).filter_map(quota).collect()
}

fn quota_v2(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

fn quota_v1(folder: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(folder.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// `quota / period`, unless there is no quota (`max`, or -1).
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}
