//! The measurement: whole inferences by executors that differ in their choices, in turns.

use std::sync::Arc;

use super::rounds::{self, Times, WARM_UPS, median};
use super::{Key, Layer, Measured, Table, Tables};
use crate::error::Result;
use crate::exec::{Executor, ExecutorOptions};
use crate::format::TestVector;
use crate::model::Model;
use crate::plan::{self, Candidates, Numerics};
use crate::threads::Runtime;

/// What to tune for.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// Images per run.
    pub batch: usize,
    /// Height and width of the first input, instead of the network's default.
    pub input_size: Option<[usize; 2]>,
    /// Which algorithms convolutions may get.
    pub numerics: Numerics,
    /// Whether every layer keeps the algorithm of the rule of thumb, and so its result to the bit:
    /// only schedules are tried.
    pub keep_algorithms: bool,
    /// Runs of each executor, at least [`Self::MIN_ROUNDS`].
    pub rounds: usize,
}

impl TuneOptions {
    /// Fewest runs that tell a difference from noise.
    pub const MIN_ROUNDS: usize = 5;
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self {
            batch: 1,
            input_size: None,
            numerics: Numerics::default(),
            keep_algorithms: false,
            rounds: 21,
        }
    }
}

/// How far a measurement is, in runs of the network.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Runs that are done.
    pub done: usize,
    /// Runs in all.
    pub total: usize,
}

/// A finished measurement.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// What to store.
    pub table: Table,
    /// For each layer of the table, the method that rules of thumb choose.
    pub heuristic: Vec<&'static str>,
    /// Nanoseconds of a run, the sum of its layers' medians: by rules of thumb, and by the table.
    pub run_ns: [u64; 2],
}

/// How often choices are measured together, at most.
const CONFIRMATIONS: usize = 2;
/// Start of the generated input.
const SEED: u64 = 1;

/// Finds the fastest method of every layer on this runtime; `progress` is called after every run.
///
/// The layers' methods are tried side by side: the k-th executor uses the k-th method of every layer.
/// Executors take turns, one run each per round, so that whatever else happens on the machine happens to all. A layer's
/// saving is the median over rounds of its difference to the rule of thumb's time in the same
/// round. A method that saves more than the noise is chosen, and then has to do so again in a plan
/// together with all other choices. If that plan as a whole (the sum of its layers' medians) is not
/// faster, rules of thumb stay.
///
/// # Errors
/// An input size or batch the network cannot take, too few rounds, or not enough memory.
pub fn tune(
    model: &Model,
    runtime: &Runtime,
    options: &TuneOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tuned> {
    let TuneOptions { batch, input_size, numerics, keep_algorithms, rounds } = *options;
    let options = ExecutorOptions {
        batch,
        input_size,
        numerics,
        profile: true,
        ..ExecutorOptions::default()
    };
    let layers = plan::candidates(model, runtime.report(), &options, keep_algorithms)?;
    let key = Key::of(model.graph(), runtime.report(), &options);
    let nb_trials = layers.iter().map(|t| t.methods.len()).max().unwrap_or(1);
    // The trials, then the choices beside the rules of thumb.
    let total = (rounds + WARM_UPS) * (nb_trials + 2 * CONFIRMATIONS);
    let mut bench = Bench { model, runtime, options, layers, key, progress, done: 0, total };

    // A layer with fewer methods than others stays at its first one.
    let trial = |k: usize| move |t: &Candidates| if k < t.methods.len() { k } else { 0 };
    let trials: Vec<_> = (0..nb_trials).map(|k| bench.select(trial(k))).collect();
    let measured = bench.measure(&trials, rounds)?;
    let mut chosen: Vec<usize> = (0..bench.layers.len())
        .map(|layer| {
            let saving =
                |m: usize| measured.saving(&bench.layer_of(layer), [0, m]).filter(|_| m > 0);
            let methods = 0..bench.layers[layer].methods.len();
            let best = methods.filter_map(|m| Some((m, saving(m)?)));
            best.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(m, _)| m)
        })
        .collect();

    let mut run_ns = [measured.run_ns(0); 2];
    for attempt in 0..CONFIRMATIONS {
        if chosen.iter().all(|m| *m == 0) {
            break;
        }
        let pair = [vec![0; chosen.len()], chosen.clone()];
        let again = bench.measure(&pair, rounds)?;
        run_ns = [again.run_ns(0), again.run_ns(1)];
        let confirmed = |layer: usize| again.saving(&bench.layer_of(layer), [0, 1]).is_some();
        let lost: Vec<_> = (0..chosen.len()).filter(|l| chosen[*l] > 0 && !confirmed(*l)).collect();
        if lost.is_empty() || attempt + 1 == CONFIRMATIONS {
            if run_ns[1] >= run_ns[0] {
                chosen.fill(0);
            }
            break;
        }
        lost.into_iter().for_each(|layer| chosen[layer] = 0);
    }
    if chosen.iter().all(|m| *m == 0) {
        run_ns[1] = run_ns[0];
    }
    (bench.progress)(Progress { done: total, total });

    let layers = bench.layers.iter().enumerate().map(|(layer, t)| Layer {
        node: t.node,
        method: t.methods[chosen[layer]].to_owned(),
        measured: t
            .methods
            .iter()
            .enumerate()
            .map(|(m, name)| Measured {
                method: (*name).to_owned(),
                ns: median(&measured.of(&bench.layer_of(layer), m)).round() as u64,
            })
            .collect(),
    });
    Ok(Tuned {
        table: Table { key: bench.key.clone(), layers: layers.collect() },
        heuristic: bench.layers.iter().map(|t| t.methods[0]).collect(),
        run_ns,
    })
}

/// The layers that have a choice under `options`, and the methods among which it is.
///
/// # Errors
/// As [`Executor::new`].
pub fn candidates(
    model: &Model,
    runtime: &Runtime,
    options: &ExecutorOptions,
) -> Result<Vec<Candidates>> {
    plan::candidates(model, runtime.report(), options, false)
}

/// What a measurement needs.
struct Bench<'a> {
    model: &'a Model,
    runtime: &'a Runtime,
    options: ExecutorOptions,
    layers: Vec<Candidates>,
    key: Key,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
}

impl Bench<'_> {
    /// The nodes whose steps compute a tunable layer: its own, and the branch that would be part of it.
    fn layer_of(&self, layer: usize) -> Vec<usize> {
        let Candidates { node, branch, .. } = &self.layers[layer];
        [Some(*node), *branch].into_iter().flatten().collect()
    }

    /// A method of each layer, by its place among the layer's.
    fn select(&self, method: impl Fn(&Candidates) -> usize) -> Vec<usize> {
        self.layers.iter().map(method).collect()
    }

    /// Runs a plan per selection, in turns.
    fn measure(&mut self, selections: &[Vec<usize>], rounds: usize) -> Result<Times> {
        let executors = selections.iter().map(|selection| self.executor(selection));
        let mut executors = executors.collect::<Result<Vec<_>>>()?;
        let inputs = self.inputs(&executors[0]);
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let nb_nodes = self.model.graph().nodes.len();
        rounds::in_turns(&mut executors, &inputs, (nb_nodes, rounds), &mut || {
            self.done += 1;
            (self.progress)(Progress { done: self.done.min(self.total), total: self.total });
        })
    }

    fn executor(&self, selection: &[usize]) -> Result<Executor> {
        let layers = self.layers.iter().zip(selection).map(|(t, m)| Layer {
            node: t.node,
            method: t.methods[*m].to_owned(),
            measured: Vec::new(),
        });
        let table = Table { key: self.key.clone(), layers: layers.collect() };
        let tables = Tables::Given(Arc::new(table));
        let options = ExecutorOptions { tables, ..self.options.clone() };
        Executor::new(self.runtime, self.model, &options)
    }

    /// Noise of the inputs' sizes: the generated image, as often as it fits.
    fn inputs(&self, executor: &Executor) -> Vec<Vec<f32>> {
        let images = TestVector::inputs(SEED, self.model.graph());
        let fill = |(i, image): (usize, Vec<f32>)| {
            let len = executor.input_dims(i).iter().product();
            image.into_iter().cycle().take(len).collect()
        };
        images.into_iter().enumerate().map(fill).collect()
    }
}
