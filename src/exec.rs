//! The executor: runs a plan. STUB: being written.

use crate::error::Result;
use crate::model::Model;
use crate::plan::PlanSummary;
use crate::threads::Runtime;

/// Settings of an [`Executor`].
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Images per run.
    pub batch: usize,
    /// Height and width of the first input, instead of the network's default.
    pub input_size: Option<[usize; 2]>,
    /// Whether to time each step (costs two clock reads per step).
    pub profile: bool,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self { batch: 1, input_size: None, profile: false }
    }
}

/// A model planned for one runtime, batch and input size. `Send`, one thread at a time.
#[derive(Debug)]
pub struct Executor {
    _private: (),
}

impl Executor {
    /// Plans `model` and allocates everything a run needs.
    ///
    /// # Errors
    /// An input size or batch the network cannot take; names the node.
    pub fn new(_runtime: &Runtime, _model: &Model, _options: &ExecutorOptions) -> Result<Self> {
        todo!("exec: the lead")
    }

    /// Runs one inference. `inputs[i]` is dense, with the dimensions [`Self::input_dims`] says.
    ///
    /// # Errors
    /// A wrong number of inputs or elements.
    pub fn run(&mut self, _inputs: &[&[f32]]) -> Result<()> {
        todo!("exec: the lead")
    }

    /// Like [`Self::run`], then copies the outputs into the caller's buffers.
    ///
    /// # Errors
    /// A wrong number of inputs, outputs or elements.
    pub fn run_into(&mut self, _inputs: &[&[f32]], _outputs: &mut [&mut [f32]]) -> Result<()> {
        todo!("exec: the lead")
    }

    /// Output `i` of the last run, dense, with the dimensions [`Self::output_dims`] says.
    pub fn output(&self, _i: usize) -> &[f32] {
        todo!("exec: the lead")
    }

    /// Dimensions of input `i` in the user's axis order, batch included.
    pub fn input_dims(&self, _i: usize) -> &[usize] {
        todo!("exec: the lead")
    }

    /// Dimensions of output `i` in the user's axis order, batch included.
    pub fn output_dims(&self, _i: usize) -> &[usize] {
        todo!("exec: the lead")
    }

    /// What will run: step by step.
    pub fn plan(&self) -> &PlanSummary {
        todo!("exec: the lead")
    }

    /// Nanoseconds of each step of the plan in the last run (with `profile`), else empty.
    pub fn step_times_ns(&self) -> &[u64] {
        todo!("exec: the lead")
    }
}
