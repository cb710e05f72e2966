//! The plan: everything decided once, before the first run. STUB: being written.

/// A plan as text and numbers: one entry per step.
#[derive(Clone, Debug)]
pub struct PlanSummary {
    /// Steps in execution order.
    pub steps: Vec<StepSummary>,
    /// Bytes of the activation arena.
    pub arena_bytes: usize,
    /// Bytes of per-thread scratch memory, all threads together.
    pub scratch_bytes: usize,
    /// Bytes of weights that had to be repacked into memory, 0 where the file's layout fits.
    pub repacked_bytes: usize,
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub struct StepSummary {
    /// The node's name.
    pub name: String,
    /// Operator.
    pub op: &'static str,
    /// Shapes of one image of each operand, `CxHxW`.
    pub inputs: Vec<crate::graph::Shape>,
    /// Shape of one image of the result.
    pub output: crate::graph::Shape,
    /// Algorithm, e.g. `direct`, `pointwise`, `stem`.
    pub algorithm: &'static str,
    /// The micro-kernel's name, e.g. `avx2-sconv-6x16`.
    pub kernel: &'static str,
    /// How the work is divided over threads, e.g. `channels`, `pixels`.
    pub split: &'static str,
    /// Multiply-accumulates, whole batch.
    pub macs: u64,
    /// Bytes of weights read.
    pub weight_bytes: u64,
    /// Bytes of activations read and written, whole batch.
    pub activation_bytes: u64,
}
