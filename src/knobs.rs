//! Every environment variable the library reads, declared once.

/// An environment variable and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What it sets, and its default.
    pub help: &'static str,
}

/// Caps the instruction set.
pub const ISA: Knob = Knob {
    name: "SKIPSTONE_ISA",
    help: "instruction set tier to use: portable, avx2, ... (default: the best this CPU has)",
};
/// Number of threads.
pub const THREADS: Knob = Knob {
    name: "SKIPSTONE_THREADS",
    help: "threads per runtime (default: CPUs this process may use, by affinity and cgroup quota)",
};
/// Spin budget.
pub const SPIN_US: Knob = Knob {
    name: "SKIPSTONE_SPIN_US",
    help: "microseconds an idle worker spins before it parks (default: 100; 0 parks at once)",
};
/// Algorithm of all convolutions that can have it.
pub const ALGORITHM: Knob = Knob {
    name: "SKIPSTONE_ALGORITHM",
    help: "algorithm of all convolutions that can have it, for experiments: direct, winograd-f2, \
           winograd-f4, winograd-s2-f2 or strassen (default: the plan's choice)",
};

/// All of them.
pub const ALL: &[Knob] = &[ISA, THREADS, SPIN_US, ALGORITHM];

impl Knob {
    /// The variable's value, if it is set and not empty.
    pub fn get(&self) -> Option<String> {
        std::env::var(self.name).ok().filter(|v| !v.is_empty())
    }
}
