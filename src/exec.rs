//! The executor: runs a plan.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use skipstone_kernels::fpenv::FlushDenormals;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::ops::Worker;
use crate::ops::input::Inputs;
use crate::plan::{self, Algorithm, Numerics, Plan, PlanSummary};
use crate::sync::{AtomicU64, Ordering};
use crate::tensor::AlignedBuf;
use crate::threads::{Queue, Runtime};
use crate::tune::Tables;

/// Settings of an [`Executor`].
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Images per run.
    pub batch: usize,
    /// Height and width of the first input, instead of the network's default.
    pub input_size: Option<[usize; 2]>,
    /// Whether to time each step (costs two clock reads per step).
    pub profile: bool,
    /// Which algorithms convolutions may get.
    pub numerics: Numerics,
    /// Algorithms of some convolutions, by node name, in place of the plan's own choice.
    pub algorithms: BTreeMap<String, Algorithm>,
    /// Where choices come from that were measured; they never go beyond `numerics`.
    pub tables: Tables,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self {
            batch: 1,
            input_size: None,
            profile: false,
            numerics: Numerics::default(),
            algorithms: BTreeMap::new(),
            tables: Tables::default(),
        }
    }
}

/// A model planned for one runtime, batch and input size. `Send`, one thread at a time.
///
/// A run allocates nothing. Its results are the same to the bit for any number of threads, and for an
/// image in any position of any batch.
pub struct Executor {
    runtime: Runtime,
    plan: Plan,
    memory: Memory,
    times_ns: Vec<u64>,
}

/// Memory for plans of one runtime, which run in it one at a time.
pub(crate) struct Memory {
    arena: AlignedBuf,
    /// Of all members, one after the other.
    scratch: AlignedBuf,
    /// Of all members, for every other step: while members take from those of one, they fill those of the next.
    queues: [Vec<Queue>; 2],
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("plan", &self.plan.summary).finish_non_exhaustive()
    }
}

/// A pointer that the team's members share; what each may access is the steps' contract.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: only an address; accesses through it are justified where they are made.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

impl Memory {
    /// Memory for each of `plans`, which were made for `runtime`.
    ///
    /// # Errors
    /// Not enough memory.
    pub(crate) fn for_plans<'a>(
        runtime: &Runtime,
        plans: impl IntoIterator<Item = &'a Plan>,
    ) -> Result<Self> {
        let (arena_len, scratch_len) = plans.into_iter().fold((0, 0), |(arena, scratch), plan| {
            (plan.arena_len.max(arena), plan.scratch_len.max(scratch))
        });
        let zeroed = |what: &str, len: usize| {
            AlignedBuf::try_zeroed(len).ok_or_else(|| {
                let mib = (len * size_of::<f32>()) >> 20;
                let message = format!("cannot allocate {mib} MiB of {what}");
                Error::new(ErrorKind::NoMemory, message)
            })
        };
        Ok(Self {
            arena: zeroed("activations", arena_len)?,
            scratch: zeroed("scratch memory", scratch_len * runtime.report().threads)?,
            queues: [0, 1].map(|_| (0..runtime.report().threads).map(|_| Queue::new()).collect()),
        })
    }

    /// Runs a plan that this memory is for. `inputs` have the plan's lengths. `times_ns` is empty, or
    /// gets the nanoseconds of each entry of the plan's summary.
    pub(crate) fn run(
        &mut self,
        runtime: &Runtime,
        plan: &Plan,
        inputs: Inputs<'_>,
        times_ns: &mut [u64],
    ) -> Result<()> {
        let (count, scratch_len) = (runtime.report().threads, plan.scratch_len);
        assert!(plan.arena_len <= self.arena.len() && scratch_len * count <= self.scratch.len());
        assert!(times_ns.is_empty() || times_ns.len() == plan.summary.steps.len());
        times_ns.fill(0);
        let arena = Shared(self.arena.as_mut_ptr());
        let scratch = Shared(self.scratch.as_mut_ptr());
        let times = (!times_ns.is_empty()).then_some(Shared(times_ns.as_mut_ptr()));
        let queues = &self.queues;
        let fill = |i: usize, member: usize| {
            let units = plan.steps.get(i).map_or(0, |step| step.units(member));
            queues[i % 2][member].fill(units);
        };
        (0..count).for_each(|member| fill(0, member));
        // When the last member was done with a step, of every other one. A member that is off the CPU in a barrier may find
        // its share of the next step done by others, and would take that step for short.
        let clock = Instant::now();
        let ends = [AtomicU64::new(0), AtomicU64::new(0)];
        runtime.fork(&|member| {
            let _flush = FlushDenormals::set();
            // SAFETY: the arena is valid for its length while `fork` runs, `self` is borrowed
            // uniquely, and members have scratch of their own.
            let mut worker = unsafe {
                Worker::new(
                    (member, count),
                    (arena.at(0), plan.arena_len),
                    (scratch.at(member * scratch_len), scratch_len),
                    inputs,
                )
            };
            let mut start = 0;
            for (i, (step, entry)) in plan.steps.iter().zip(&plan.entries).enumerate() {
                worker.queues = &queues[i % 2];
                fill(i + 1, member);
                // SAFETY: the arena and scratch are as long as the plan asked; every member runs
                // every step in order, with a barrier in between, before which each filled its queue for the step.
                unsafe { step.run(&worker) };
                if times.is_some() {
                    ends[i % 2].fetch_max(clock.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                if !runtime.barrier() {
                    return;
                }
                if let Some(times) = times.filter(|_| member == 0) {
                    let end = ends[i % 2].load(Ordering::Relaxed);
                    // SAFETY: entries index the summary, as times do; only member 0 writes them.
                    unsafe { *times.at(*entry) += end - start };
                    start = end;
                }
            }
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.arena.len() + self.scratch.len()) * size_of::<f32>()
    }

    /// Output `i` of the last run, which was of `plan`.
    pub(crate) fn output(&self, plan: &Plan, i: usize) -> &[f32] {
        &self.arena[plan.outputs[i].clone()]
    }
}

impl Executor {
    /// Plans `model` and allocates everything a run needs.
    ///
    /// # Errors
    /// An input size or batch the network cannot take; names the node. Not enough memory.
    pub fn new(runtime: &Runtime, model: &Model, options: &ExecutorOptions) -> Result<Self> {
        let plan = plan::build(model, runtime.report(), options)?;
        Ok(Self {
            runtime: runtime.clone(),
            memory: Memory::for_plans(runtime, [&plan])?,
            times_ns: vec![0; if options.profile { plan.summary.steps.len() } else { 0 }],
            plan,
        })
    }

    /// Runs one inference. `inputs[i]` is dense, with the dimensions [`Self::input_dims`] says.
    ///
    /// # Errors
    /// A wrong number of inputs or elements.
    pub fn run(&mut self, inputs: &[&[f32]]) -> Result<()> {
        self.check_lengths("input", &self.plan.input_dims, inputs.iter().map(|i| i.len()))?;
        let Self { runtime, plan, memory, times_ns } = self;
        memory.run(runtime, plan, Inputs::Batches(inputs), times_ns)
    }

    /// Like [`Self::run`], then copies the outputs into the caller's buffers.
    ///
    /// # Errors
    /// A wrong number of inputs, outputs or elements.
    pub fn run_into(&mut self, inputs: &[&[f32]], outputs: &mut [&mut [f32]]) -> Result<()> {
        self.check_lengths("output", &self.plan.output_dims, outputs.iter().map(|o| o.len()))?;
        self.run(inputs)?;
        for (i, output) in outputs.iter_mut().enumerate() {
            output.copy_from_slice(self.output(i));
        }
        Ok(())
    }

    fn check_lengths(
        &self,
        what: &str,
        expected: &[Vec<usize>],
        found: impl ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        if found.len() != expected.len() {
            return Err(Error::invalid(format!(
                "{} {what}s given, the network has {}",
                found.len(),
                expected.len()
            )));
        }
        for (i, (found, dims)) in found.zip(expected).enumerate() {
            let len: usize = dims.iter().product();
            if found != len {
                return Err(Error::invalid(format!(
                    "{what} {i} has {found} elements, expected {len} ({dims:?})"
                )));
            }
        }
        Ok(())
    }

    /// Output `i` of the last run, dense, with the dimensions [`Self::output_dims`] says; zeros
    /// before the first run.
    ///
    /// # Panics
    /// If there is no output `i`.
    pub fn output(&self, i: usize) -> &[f32] {
        self.memory.output(&self.plan, i)
    }

    /// Dimensions of input `i` in the user's axis order, batch included.
    ///
    /// # Panics
    /// If there is no input `i`.
    pub fn input_dims(&self, i: usize) -> &[usize] {
        &self.plan.input_dims[i]
    }

    /// Dimensions of output `i` in the user's axis order, batch included.
    ///
    /// # Panics
    /// If there is no output `i`.
    pub fn output_dims(&self, i: usize) -> &[usize] {
        &self.plan.output_dims[i]
    }

    /// What runs: step by step.
    pub fn plan(&self) -> &PlanSummary {
        &self.plan.summary
    }

    /// Nanoseconds of each entry of the plan in the last run (with `profile`), else empty.
    pub fn step_times_ns(&self) -> &[u64] {
        &self.times_ns
    }
}
