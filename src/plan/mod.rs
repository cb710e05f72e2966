//! The plan: everything decided once, before the first run.
//!
//! From a model's graph, the runtime's instruction set and team, a batch and an input size,
//! `build` decides shapes, each activation's layout and frame (`layout`), which convolutions become
//! part of others (`join`), how many images pass through each part of the network at a time
//! (`slices`), places in the arena (`memory`) and each node's step: algorithm, kernel, blocks and
//! division over threads (`steps`). What is left to run time is a list of steps.

mod join;
pub(crate) mod layout;
mod memory;
mod select;
mod shadows;
mod slices;
mod steps;

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::exec::ExecutorOptions;
use crate::graph::{Axis, Graph, Shape, ValueId};
use crate::model::Model;
use crate::ops::{Act, Step};
use crate::threads::RuntimeReport;
use crate::tune::{Key, Measured, Table, TableUse, Tables};
use memory::Block;
use select::Selector;
pub use select::{Algorithm, Numerics, Reason};
use slices::Part;

/// Largest batch.
pub const MAX_BATCH: usize = 4096;

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
    /// Whether measured choices were there, and used.
    pub table: TableUse,
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub struct StepSummary {
    /// The node's name.
    pub name: String,
    /// Operator.
    pub op: &'static str,
    /// Shapes of one image of each operand, `CxHxW`.
    pub inputs: Vec<Shape>,
    /// Shape of one image of the result.
    pub output: Shape,
    /// Algorithm, e.g. `direct`, `pointwise`, `stem`.
    pub algorithm: &'static str,
    /// The node that it computes, or part of which; absent for inputs and outputs.
    pub node: Option<usize>,
    /// What was chosen for the node; absent where there is nothing to choose.
    pub choice: Option<ChoiceSummary>,
    /// The micro-kernel's name, e.g. `avx2-sconv-6x16`.
    pub kernel: &'static str,
    /// How the work is divided over threads, e.g. `channels`, `pixels`.
    pub split: &'static str,
    /// Of an int8 convolution by sums of groups: how many quads of weights (4 inputs by 8 outputs) are
    /// added in 16 bits in groups of 4, of 3, of 2, and alone.
    pub groups: Option<[usize; 4]>,
    /// Images per pass: a batch may run through a part of the network in slices.
    pub images: usize,
    /// Multiply-accumulates, whole batch.
    pub macs: u64,
    /// Bytes of weights read.
    pub weight_bytes: u64,
    /// Bytes of activations read and written, whole batch.
    pub activation_bytes: u64,
}

/// How a node is computed, why, and what else was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceSummary {
    /// Algorithm and schedule, e.g. `winograd-f4-panels`.
    pub method: &'static str,
    /// Why.
    pub reason: Reason,
    /// Times of the node's methods on this machine, if the plan uses a table.
    pub measured: Vec<Measured>,
}

/// What an executor runs.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Box<dyn Step>>,
    /// The summary's entry of each step: slices of a batch share one.
    pub(crate) entries: Vec<usize>,
    pub(crate) summary: PlanSummary,
    /// Elements of the arena, and of each member's scratch memory.
    pub(crate) arena_len: usize,
    pub(crate) scratch_len: usize,
    /// Users' dimensions of each input and output, and where outputs lie in the arena.
    pub(crate) input_dims: Vec<Vec<usize>>,
    pub(crate) output_dims: Vec<Vec<usize>>,
    pub(crate) outputs: Vec<std::ops::Range<usize>>,
}

/// Plans `model` for a batch of images of the given size (of the first input; the default if absent).
///
/// # Errors
/// A batch or size out of range, or one that the network cannot take; names the node.
pub(crate) fn build(
    model: &Model,
    runtime: &RuntimeReport,
    options: &ExecutorOptions,
) -> Result<Plan> {
    let Outline { graph, shapes, mut acts, parts, tables } = Outline::new(model, runtime, options)?;
    let batch = options.batch;
    let (table, table_use) = tables;
    let mut shadows = shadows::shadows(graph, &shapes, &parts)?;
    let shadowed = (&*acts, &*shadows);
    let selector =
        Selector { graph, acts: shadowed, parts: &parts, runtime, options, model, table };
    let choices = selector.choose()?;
    // Sums of int8 convolutions have steps of their own sizes, and cannot be added as they are.
    let open = |i: usize| !graph.nodes[i].is_int8() && shadows[i].is_empty();
    let joins = |i: usize, branch: usize| {
        let [algorithm, other] = [i, branch].map(|i| choices[i].algorithm);
        algorithm == other && algorithm.variant().is_none() && open(i) && open(branch)
    };
    let branches = join::branches(graph, joins);
    let mut is_branch = vec![false; graph.nodes.len()];
    branches.iter().flatten().for_each(|&i| is_branch[i] = true);
    let lives = lives(graph, &branches, &parts);
    for (act, live) in acts.iter_mut().zip(&lives) {
        act.batch = live.images.unwrap_or(batch);
    }

    let (nb_values, end) = (graph.nb_values(), graph.nb_values() + graph.outputs.len());
    let mut blocks: Vec<Block> = Vec::with_capacity(end);
    for (v, live) in lives.iter().enumerate() {
        let exists = !graph.node_of(ValueId(v as u32)).is_some_and(|i| is_branch[i]);
        let len = if exists { acts[v].arena_len() } else { 0 };
        blocks.push(Block { len, live: live.steps.clone() });
    }
    // Outputs are copied out into dense tensors that stay until the next run.
    let outputs = graph.outputs.iter().enumerate();
    blocks.extend(outputs.map(|(i, port)| Block {
        len: batch * shapes[port.value.0 as usize].len(),
        live: nb_values + i..=end,
    }));
    // Memory that only one node's own steps share.
    for (i, choice) in choices.iter().enumerate() {
        let ValueId(v) = graph.value_of(i);
        blocks.push(Block { len: choice.arrangement.shared_len, live: v as usize..=v as usize });
    }
    for (i, shadows) in shadows.iter_mut().enumerate() {
        let ValueId(v) = graph.value_of(i);
        let block = |act: &mut Act| Block { len: act.arena_len(), live: v as usize..=v as usize };
        blocks.extend(shadows.acts_mut().map(block));
    }
    let (places, arena_len) = memory::place(&blocks);
    let own_memory = places[end + choices.len()..].iter();
    let shadow_acts = shadows.iter_mut().flat_map(|s| s.acts_mut());
    for (act, place) in acts.iter_mut().zip(&places).chain(shadow_acts.zip(own_memory)) {
        act.base = *place;
    }

    let mut builder = steps::Builder::new(model, runtime);
    for part in &parts {
        for slice in 0..batch / part.images {
            builder.begin_slice(&acts, part.images, slice);
            if part.nodes.start == 0 {
                for (i, port) in graph.inputs.iter().enumerate() {
                    builder.input(i, port);
                }
            }
            for i in part.nodes.clone().filter(|i| !is_branch[*i]) {
                let layer = table.and_then(|t| t.layer(i));
                let choice = choices[i].summary(layer);
                let chosen = (&choices[i], choice);
                builder.node(i, chosen, &shadows[i], branches[i], places[end + i]);
            }
        }
    }
    builder.begin_slice(&acts, batch, 0);
    let mut plan_outputs = Vec::new();
    for (port, place) in graph.outputs.iter().zip(&places[nb_values..end]) {
        let len = builder.output(port, *place);
        plan_outputs.push(*place..place + len);
    }
    let dims = |port: &crate::graph::Port| port.axes.dims(batch, shapes[port.value.0 as usize]);
    let steps::Built { steps, entries, summaries, repacked_bytes } = builder.finish();
    let scratch_len = steps.iter().map(|s| s.scratch_len()).max().unwrap_or(0);
    // Members' scratch does not share cache lines.
    let scratch_len = scratch_len.next_multiple_of(32);
    Ok(Plan {
        summary: PlanSummary {
            steps: summaries,
            arena_bytes: arena_len * size_of::<f32>(),
            scratch_bytes: runtime.threads * scratch_len * size_of::<f32>(),
            repacked_bytes,
            table: table_use,
        },
        steps,
        entries,
        arena_len,
        scratch_len,
        input_dims: graph.inputs.iter().map(dims).collect(),
        output_dims: graph.outputs.iter().map(dims).collect(),
        outputs: plan_outputs,
    })
}

/// What is known of a plan before anything is chosen.
struct Outline<'a> {
    graph: &'a Graph,
    shapes: Vec<Shape>,
    /// Not yet placed.
    acts: Vec<Act>,
    parts: Vec<Part>,
    /// The table to use, if there is one, and what to say of it.
    tables: (Option<&'a Table>, TableUse),
}

impl<'a> Outline<'a> {
    fn new(
        model: &'a Model,
        runtime: &RuntimeReport,
        options: &'a ExecutorOptions,
    ) -> Result<Self> {
        let batch = options.batch;
        if !(1..=MAX_BATCH).contains(&batch) {
            return Err(Error::invalid(format!("batch is {batch}, expected 1..={MAX_BATCH}")));
        }
        let graph = model.graph();
        refuse_fixed_batch(graph, batch)?;
        let shapes = infer_shapes(graph, options.input_size)?;
        let acts = layout::activations(graph, &shapes, batch)?;
        let parts = slices::parts(graph, &shapes, batch);
        let tables = match &options.tables {
            Tables::File if model.tables().is_empty() => (None, TableUse::Absent),
            Tables::File => {
                let key = Key::of(graph, runtime, options);
                let table = model.tables().iter().find(|t| t.key == key);
                let table_use = match table {
                    Some(_) => TableUse::Used,
                    None => TableUse::NoMatch { nb_tables: model.tables().len() },
                };
                (table, table_use)
            }
            Tables::Ignore => (None, TableUse::Ignored),
            Tables::Given(table) => (Some(&**table), TableUse::Used),
        };
        Ok(Self { graph, shapes, acts, parts, tables })
    }
}

/// A node whose method can be chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidates {
    /// The graph's node.
    pub node: usize,
    /// The branch that becomes part of the node's step where both are direct.
    pub branch: Option<usize>,
    /// Names of the methods that fit; the one that a plan without a table takes comes first.
    pub methods: Vec<&'static str>,
}

/// The nodes that have a choice, and the methods among which it is; with `keep_algorithms` only
/// those of the algorithm that a plan without a table takes.
///
/// # Errors
/// As [`build`].
pub(crate) fn candidates(
    model: &Model,
    runtime: &RuntimeReport,
    options: &ExecutorOptions,
    keep_algorithms: bool,
) -> Result<Vec<Candidates>> {
    let options = ExecutorOptions { tables: Tables::Ignore, ..options.clone() };
    let Outline { graph, shapes, acts, parts, .. } = Outline::new(model, runtime, &options)?;
    let shadows = shadows::shadows(graph, &shapes, &parts)?;
    let acts = (&*acts, &*shadows);
    let selector =
        Selector { graph, acts, parts: &parts, runtime, options: &options, model, table: None };
    let choices = selector.choose()?;
    let branches = join::branches(graph, |i, _| !graph.nodes[i].is_int8());
    // A branch goes the way of the node that adds it.
    let own = (0..graph.nodes.len()).filter(|i| !branches.contains(&Some(*i)));
    let candidates = |node: usize| {
        let (first, reason) = choices[node].method?;
        let only = keep_algorithms.then_some(choices[node].algorithm);
        let mut methods = selector.candidates(node, only);
        methods.retain(|m| *m != first);
        methods.insert(0, first);
        let open = reason == Reason::Heuristic && methods.len() > 1;
        open.then(|| Candidates { node, branch: branches[node], methods })
    };
    Ok(own.filter_map(candidates).collect())
}

/// Refuses several images where an input or output is one by itself.
fn refuse_fixed_batch(graph: &Graph, batch: usize) -> Result<()> {
    let fixed = |port: &&crate::graph::Port| batch > 1 && !port.axes.0.contains(&Axis::N);
    match graph.inputs.iter().chain(&graph.outputs).find(fixed) {
        None => Ok(()),
        Some(crate::graph::Port { name, axes, .. }) => Err(Error::shape(format!(
            "batch is {batch}, but '{name}' has axes {axes}, without a batch"
        ))),
    }
}

fn infer_shapes(graph: &Graph, input_size: Option<[usize; 2]>) -> Result<Vec<Shape>> {
    let mut inputs = graph.input_shapes();
    if let (Some([h, w]), Some(first)) = (input_size, inputs.first_mut()) {
        (first.h, first.w) = (h, w);
        first.check()?;
    }
    graph.infer_shapes(&inputs)
}

/// When a value is in use, and for how many images.
struct Live {
    /// Steps, numbered as values are, outputs after.
    steps: RangeInclusive<usize>,
    /// Images of the part's slices; absent for a value that other parts or outputs read, which holds
    /// the whole batch.
    images: Option<usize>,
}

/// The life of every value.
fn lives(graph: &Graph, branches: &[Option<usize>], parts: &[Part]) -> Vec<Live> {
    let nb_inputs = graph.inputs.len();
    let part_of = |v: usize| {
        let node = v.saturating_sub(nb_inputs);
        parts.iter().find(|p| p.nodes.contains(&node))
    };
    let mut last: Vec<usize> = (0..graph.nb_values()).collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        let branch = branches[i].map(|branch| &graph.nodes[branch]);
        for v in node.inputs.iter().chain(branch.iter().flat_map(|b| &b.inputs)) {
            last[v.0 as usize] = nb_inputs + i;
        }
    }
    for (i, port) in graph.outputs.iter().enumerate() {
        last[port.value.0 as usize] = graph.nb_values() + i;
    }
    let life = |(v, &last): (usize, &usize)| {
        let (own, reader) = (part_of(v), part_of(last));
        let inside = own == reader && last < graph.nb_values();
        let images = own.filter(|_| inside).map(|p| p.images);
        if images.is_some() || own.is_none() {
            return Live { steps: v..=last, images };
        }
        // Each slice writes its images, and may read others' for the whole length of a part.
        let start =
            own.map_or(v, |p| if p.nodes.start == 0 { 0 } else { nb_inputs + p.nodes.start });
        let end = reader.map_or(last, |p| nb_inputs + p.nodes.end - 1).max(last);
        Live { steps: start.min(v)..=end, images: None }
    };
    last.iter().enumerate().map(life).collect()
}

/// Activations of one plan, by value.
type Acts = [Act];
