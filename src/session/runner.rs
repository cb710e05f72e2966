//! One stream's work: a batch through the plan of its size.

use std::sync::Arc;

use super::queue::Share;
use super::streams::{Runner, Ticketed};
use crate::error::Result;
use crate::exec::{ExecutorOptions, Memory};
use crate::model::Model;
use crate::ops::input::{Image, Inputs};
use crate::plan::{self, Plan};
use crate::threads::Runtime;

/// What all streams of a session share.
pub(super) struct Plans {
    /// By batch size, ascending.
    pub(super) plans: Vec<(usize, Plan)>,
    /// What bytes mean, per input and channel; empty where inputs cannot be bytes.
    pub(super) values: Vec<Vec<[f32; 256]>>,
}

impl Plans {
    /// Plans `model` for each of `sizes`, for runtimes that are like `runtime`.
    pub(super) fn new(
        runtime: &Runtime,
        model: &Model,
        options: &ExecutorOptions,
        sizes: &[usize],
    ) -> Result<Self> {
        let plan = |&batch: &usize| {
            let options = ExecutorOptions { batch, profile: false, ..options.clone() };
            Ok((batch, plan::build(model, runtime.report(), &options)?))
        };
        Ok(Self { plans: sizes.iter().map(plan).collect::<Result<_>>()?, values: values(model) })
    }
}

fn values(model: &Model) -> Vec<Vec<[f32; 256]>> {
    let inputs = model.graph().inputs.iter().map(|port| {
        let recipe = model.recipe().filter(|recipe| recipe.channels.count() == port.shape.c);
        recipe.map_or(vec![], |r| (0..port.shape.c).map(|c| r.pixel_values(c)).collect())
    });
    inputs.collect()
}

/// A stream: the plans, and memory and threads to run them with.
pub(super) struct Stream {
    runtime: Runtime,
    plans: Arc<Plans>,
    memory: Memory,
}

impl Stream {
    pub(super) fn new(runtime: Runtime, plans: &Arc<Plans>) -> Result<Self> {
        let memory = Memory::for_plans(&runtime, plans.plans.iter().map(|(_, plan)| plan))?;
        Ok(Self { runtime, plans: Arc::clone(plans), memory })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Runs each plan once on zeros, so that all memory is there.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        for (_, plan) in &self.plans.plans {
            let zeros = |dims: &Vec<usize>| vec![0.0; dims.iter().product()];
            let inputs: Vec<Vec<f32>> = plan.input_dims.iter().map(zeros).collect();
            let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
            self.memory.run(&self.runtime, plan, Inputs::Batches(&inputs), &mut [])?;
        }
        Ok(())
    }
}

impl Runner for Stream {
    fn run(&mut self, batch: &[Share<Ticketed>]) -> Result<()> {
        let Plans { plans, values } = &*self.plans;
        let each = || batch.iter().flat_map(|s| s.images.clone().map(|i| (&s.request.0, i)));
        let size = each().count();
        let (_, plan) = plans.iter().find(|(n, _)| *n == size).expect("batches have these sizes");
        // SAFETY: a job ends after its images have left this function; it was made with as many
        // images as it was queued with, and bytes only for inputs that have values.
        let images: Vec<Image<'_>> =
            each().flat_map(|(job, i)| unsafe { job.images(i, values) }).collect();
        let nb_inputs = values.len();
        let inputs = Inputs::Images { images: &images, nb_inputs };
        self.memory.run(&self.runtime, plan, inputs, &mut [])?;
        for o in 0..plan.output_dims.len() {
            let output = self.memory.output(plan, o);
            for ((job, i), from) in each().zip(output.chunks_exact(output.len() / size)) {
                // SAFETY: as above, and an image leaves the queue once, to one stream.
                unsafe { job.output(o, i) }.copy_from_slice(from);
            }
        }
        Ok(())
    }
}
