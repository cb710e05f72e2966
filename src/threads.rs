//! The thread team. STUB: being written.

use std::time::Duration;

use skipstone_kernels::isa::Isa;

use crate::error::Result;

/// Worker threads and the chosen instruction set; cheap to clone, shared by executors.
#[derive(Clone, Debug)]
pub struct Runtime {
    report: RuntimeReport,
}

/// What a [`Runtime`] chose, and why.
#[derive(Clone, Debug)]
pub struct RuntimeReport {
    /// Instruction set tier.
    pub isa: Isa,
    /// Why that tier.
    pub isa_reason: String,
    /// Threads per inference, the caller's included.
    pub threads: usize,
    /// Why that many.
    pub threads_reason: String,
    /// How long an idle worker spins before it parks.
    pub spin: Duration,
}

/// Settings of a [`Runtime`]; what is not set comes from the environment, then from detection.
#[derive(Clone, Debug, Default)]
pub struct RuntimeBuilder {
    threads: Option<usize>,
    isa: Option<Isa>,
    spin: Option<Duration>,
}

impl RuntimeBuilder {
    /// Number of threads, the caller's included.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Instruction set tier.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// How long an idle worker spins before it parks.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// A setting (or environment variable) that this machine cannot honour.
    pub fn build(self) -> Result<Runtime> {
        todo!("threads: the lead")
    }
}

impl Runtime {
    /// Settings for a new runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// What was chosen, and why.
    pub fn report(&self) -> &RuntimeReport {
        &self.report
    }
}
