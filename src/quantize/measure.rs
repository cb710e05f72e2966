//! The choice between int8 and f32 by measurement: inferences of both networks, in turns.

use super::{Calibration, Options, Quantized, quantize};
use crate::error::{Error, Result};
use crate::exec::{Executor, ExecutorOptions};
use crate::format::{PackOptions, to_bytes};
use crate::graph::{Graph, Network, Op, ValueId};
use crate::model::Model;
use crate::plan::{Numerics, PlanSummary};
use crate::threads::Runtime;
use crate::tune::rounds::{Times, WARM_UPS, deviation, in_turns, median};
use crate::tune::{Key, Progress, Tables};

/// Executors, in the order of their times: of the f32 network, of the quantized one, and of what is tried
/// in its place.
const FLOAT: usize = 0;
const INT8: usize = 1;
const TRIAL: usize = 2;

/// What int8 is measured against f32 with.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'a> {
    /// The network in f32, packed; perhaps for images of another size.
    pub model: &'a Model,
    /// Where both run.
    pub runtime: &'a Runtime,
    /// What both run on: inputs as [`Executor::run`] takes them, of one observed image. (Time depends on
    /// values where a u8 source is split at half its range.)
    pub inputs: &'a [&'a [f32]],
    /// Which algorithms convolutions may get.
    pub numerics: Numerics,
    /// Runs of each network in each pass, at least [`TuneOptions::MIN_ROUNDS`](crate::tune::TuneOptions).
    pub rounds: usize,
}

/// A quantized network whose layers were measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The network, with what is slower in int8 in f32.
    pub quantized: Quantized,
    /// One for each of its layers.
    pub layers: Vec<LayerTimes>,
    /// Nanoseconds of a run, the sum of its nodes' medians: in f32, and quantized.
    pub run_ns: [u64; 2],
    /// Where that holds.
    pub key: Key,
}

/// How long a layer takes in a run of the whole network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerTimes {
    /// The layer whose step in f32 computes this one too: the times of both are those of the two
    /// together. An index.
    pub within: Option<usize>,
    /// In the f32 network.
    pub f32: Time,
    /// In int8, if it was: as quantized, or when it was found to be slower.
    pub int8: Option<Time>,
    /// What follows.
    pub verdict: Verdict,
}

/// A median over rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// The median, in nanoseconds.
    pub ns: u64,
    /// The median absolute deviation from it, in nanoseconds.
    pub deviation_ns: u64,
}

/// What measured times say of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays in int8, which is no slower.
    Int8,
    /// It stays in f32, since it is slower in int8.
    Slower,
    /// It stays in int8 though it is slower by itself: in f32 it makes the network slower still, by
    /// conversions and by what they do to its neighbours.
    KeptByConversions,
    /// There was no choice: it is excluded or cannot be quantized.
    NoChoice,
}

/// Quantizes as [`quantize`] does, and excludes each layer that measures slower in int8 than in f32;
/// `progress` is called after every run.
///
/// The f32 network and the quantized one run one image in turns, both by rules of thumb. A layer's
/// time is that of all steps of its node, preparations and conversions included, and for the layer that reads
/// the image also that of taking it in. Layers that f32 computes in one step are decided together.
///
/// 1. A layer is slower in int8 if f32 saves 2 % of its time, and three times the error of the median
///    saving.
/// 2. A network with all slower layers in f32 then takes turns with the other two. Only those layers, and
///    nodes connected to them by values that are now stored otherwise, take another time than before.
///    Where these take together no less of it, the exclusions among them are taken back for good, and the
///    rest is tried again.
/// 3. Once all of them save time they stay, and the next pass asks whether more layers are slower now.
///
/// Each pass settles at least one layer for good, and it ends when none is slower; where int8 is faster
/// throughout, the first measurement is all.
///
/// # Errors
/// As [`quantize`] and [`Executor::new`]; a model of another network; wrong inputs or too few rounds.
pub fn quantize_measured(
    network: &Network,
    calibration: &Calibration,
    options: &Options,
    measurement: &Measurement<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Measured> {
    let Measurement { model, runtime, inputs, numerics, rounds } = *measurement;
    if model.graph().nodes != network.graph.nodes {
        return Err(Error::invalid("the model in f32 is another network"));
    }
    let execution = ExecutorOptions {
        input_size: network.graph.inputs.first().map(|port| [port.shape.h, port.shape.w]),
        profile: true,
        numerics,
        tables: Tables::Ignore,
        ..ExecutorOptions::default()
    };
    let planned = |quantized: &Quantized| {
        let pack = PackOptions { dtype: model.pack_options().dtype, ..PackOptions::default() };
        let model = Model::from_bytes(&to_bytes(&quantized.network, &pack)?)?;
        Executor::new(runtime, &model, &execution)
    };
    let (mut done, mut total) = (0, 0);
    let mut measure = |executors: &mut [Executor]| {
        total += executors.len() * (WARM_UPS + rounds);
        in_turns(executors, inputs, (network.graph.nodes.len(), rounds), &mut || {
            done += 1;
            progress(Progress { done, total });
        })
    };

    let mut quantized = quantize(network, calibration, options)?;
    let can_be_int8: Vec<bool> = quantized.layers.iter().map(|l| l.is_int8).collect();
    let mut executors = vec![Executor::new(runtime, model, &execution)?, planned(&quantized)?];
    let mut choices = Choices(groups(&network.graph, executors[FLOAT].plan(), &can_be_int8));
    let (mut times, mut current) = (measure(&mut executors)?, INT8);
    loop {
        let slower = choices.slower(&times, current);
        if slower.is_empty() {
            break;
        }
        let names = choices.in_float(&slower).map(|layer| quantized.layers[layer].name.clone());
        let exclude = options.exclude.iter().cloned().chain(names).collect();
        let trial = quantize(network, calibration, &Options { exclude, ..options.clone() })?;
        executors.push(planned(&trial)?);
        times = measure(&mut executors)?;
        let areas = areas(&quantized.network.graph, &trial.network.graph);
        if choices.judge(&slower, areas, &times) {
            executors.swap_remove(INT8);
            (quantized, current) = (trial, TRIAL);
        } else {
            executors.pop();
            current = INT8;
        }
    }
    Ok(Measured {
        layers: choices.layers(&times, current, &can_be_int8),
        quantized,
        run_ns: [times.run_ns(FLOAT), times.run_ns(current)],
        key: Key::of(&network.graph, runtime.report(), &execution),
    })
}

/// Layers that are decided together, since f32 computes them in one step.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    /// Their places among the network's layers; the one whose step it is comes first.
    layers: Vec<usize>,
    /// Their nodes, in that order; the last is [`Times`]' one of the inputs if the image is read here.
    nodes: Vec<usize>,
    state: State,
}

/// What is decided of a group, as [`Verdict`] says; where nothing is yet, it is [`State::Int8`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    NoChoice,
    Int8,
    KeptByConversions,
    /// With its times in f32 and in int8 when it was found to be.
    Slower([Time; 2]),
}

/// The groups of a network's layers, of which `plan` is in f32.
fn groups(graph: &Graph, plan: &PlanSummary, can_be_int8: &[bool]) -> Vec<Group> {
    let is_layer = |i: &usize| matches!(graph.nodes[*i].op, Op::Conv(_) | Op::Linear(_));
    let has_steps = |i: usize| plan.steps.iter().any(|step| step.node == Some(i));
    let reader = |i: usize| graph.nodes.iter().position(|n| n.inputs.contains(&graph.value_of(i)));
    let layers: Vec<usize> = (0..graph.nodes.len()).filter(is_layer).collect();
    let mut groups: Vec<Group> = Vec::new();
    // Backwards: a layer without steps of its own is part of the step of the one that reads it.
    for (layer, &node) in layers.iter().enumerate().rev() {
        let within = if has_steps(node) { None } else { reader(node) };
        let state = if can_be_int8[layer] { State::Int8 } else { State::NoChoice };
        match groups.iter_mut().find(|g| within.is_some_and(|i| g.nodes[0] == i)) {
            Some(group) => {
                group.layers.push(layer);
                group.nodes.push(node);
                if state == State::Int8 {
                    group.state = state;
                }
            }
            None => groups.push(Group { layers: vec![layer], nodes: vec![node], state }),
        }
    }
    groups.reverse();
    let reads_image = |g: &&mut Group| {
        let mut operands = g.nodes.iter().flat_map(|i| &graph.nodes[*i].inputs);
        operands.any(|v| graph.node_of(*v).is_none())
    };
    if let Some(first) = groups.iter_mut().find(reads_image) {
        first.nodes.push(graph.nodes.len());
    }
    groups
}

/// The area of each node, and last that of the inputs: nodes have the same number that are connected
/// by values that the two networks store in different ways.
fn areas(before: &Graph, after: &Graph) -> Vec<usize> {
    let inputs = before.nodes.len();
    let mut areas: Vec<usize> = (0..=inputs).collect();
    for (i, node) in before.nodes.iter().enumerate() {
        let changes = |v: &&ValueId| before.quantization_of(**v) != after.quantization_of(**v);
        for v in node.inputs.iter().filter(changes) {
            unite(&mut areas, i, before.node_of(*v).unwrap_or(inputs));
        }
    }
    areas
}

fn unite(areas: &mut [usize], a: usize, b: usize) {
    let (from, to) = (areas[a], areas[b]);
    areas.iter_mut().filter(|area| **area == from).for_each(|area| *area = to);
}

impl Verdict {
    /// `"int8"`, `"slower"`, `"kept-by-conversions"` or `"no-choice"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Slower => "slower",
            Self::KeptByConversions => "kept-by-conversions",
            Self::NoChoice => "no-choice",
        }
    }
}

/// What is decided, group by group.
struct Choices(Vec<Group>);

impl Choices {
    /// Groups that save time in f32, if that is still open. `int8` is the executor in int8.
    fn slower(&self, times: &Times, int8: usize) -> Vec<usize> {
        let is_slower = |g: &usize| {
            let Group { nodes, state, .. } = &self.0[*g];
            *state == State::Int8 && times.saving(nodes, [int8, FLOAT]).is_some()
        };
        (0..self.0.len()).filter(is_slower).collect()
    }

    /// The layers that stay in f32 with these groups.
    fn in_float(&self, groups: &[usize]) -> impl Iterator<Item = usize> {
        let is_in = |(g, group): &(usize, &Group)| {
            matches!(group.state, State::Slower(_)) || groups.contains(g)
        };
        self.0.iter().enumerate().filter(is_in).flat_map(|(_, group)| &group.layers).copied()
    }

    /// Whether the trial, which has `slower` groups in f32, saves time in each area around one of them;
    /// then they stay. Else those of areas that save none return to int8 for good.
    fn judge(&mut self, slower: &[usize], mut areas: Vec<usize>, times: &Times) -> bool {
        for g in slower {
            let nodes = &self.0[*g].nodes;
            nodes.iter().for_each(|node| unite(&mut areas, *node, nodes[0]));
        }
        let saves = |g: &usize| {
            let area = areas[self.0[*g].nodes[0]];
            let nodes: Vec<usize> = (0..areas.len()).filter(|node| areas[*node] == area).collect();
            times.difference(&nodes, [INT8, TRIAL]) > 0.0
        };
        let (saving, others): (Vec<usize>, Vec<usize>) = slower.iter().partition(|g| saves(g));
        for &g in &others {
            self.0[g].state = State::KeptByConversions;
        }
        for &g in saving.iter().filter(|_| others.is_empty()) {
            let nodes = &self.0[g].nodes;
            let found = [FLOAT, INT8].map(|executor| Time::of(&times.of(nodes, executor)));
            self.0[g].state = State::Slower(found);
        }
        others.is_empty()
    }

    /// What is to be said of each layer.
    fn layers(&self, times: &Times, int8: usize, can_be_int8: &[bool]) -> Vec<LayerTimes> {
        let of = |layer: usize| {
            let group = self.0.iter().find(|g| g.layers.contains(&layer));
            let Group { layers, nodes, state } = group.expect("every layer is in a group");
            let [f32, int8] = [FLOAT, int8].map(|executor| Time::of(&times.of(nodes, executor)));
            let (f32, int8, verdict) = match *state {
                State::NoChoice => (f32, None, Verdict::NoChoice),
                State::Int8 => (f32, Some(int8), Verdict::Int8),
                State::KeptByConversions => (f32, Some(int8), Verdict::KeptByConversions),
                State::Slower([f32, int8]) => (f32, Some(int8), Verdict::Slower),
            };
            LayerTimes {
                within: Some(layers[0]).filter(|first| *first != layer),
                f32,
                int8,
                verdict: if can_be_int8[layer] { verdict } else { Verdict::NoChoice },
            }
        };
        (0..can_be_int8.len()).map(of).collect()
    }
}

impl Time {
    fn of(rounds: &[f64]) -> Self {
        Self { ns: median(rounds) as u64, deviation_ns: deviation(rounds) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{AxisOrder, Clamp, Node, Port, Quantization, Shape};

    /// Rounds around `middle`, by a fixed pattern of noise.
    fn rounds(middle: f64, noise: f64, phase: usize) -> Vec<f64> {
        (0..21).map(|i| middle + noise * (((i + phase) * 8 % 21) as f64 / 10.0 - 1.0)).collect()
    }

    /// One executor's times: of each node, 1 % of noise, and nothing for inputs and outputs.
    fn executor(nodes: &[f64]) -> Vec<Vec<f64>> {
        let nodes = nodes.iter().chain(&[0.0; 2]).enumerate();
        nodes.map(|(i, ns)| rounds(*ns, ns * 0.01, i)).collect()
    }

    /// Groups of these nodes; layers are numbered as they come.
    fn choices(groups: &[&[usize]]) -> Choices {
        let mut nb_layers = 0;
        let group = |nodes: &&[usize]| {
            let layers = (nb_layers..nb_layers + nodes.len()).collect();
            nb_layers += nodes.len();
            Group { layers, nodes: nodes.to_vec(), state: State::Int8 }
        };
        Choices(groups.iter().map(group).collect())
    }

    fn verdicts(choices: &Choices, times: &Times) -> Vec<Verdict> {
        let nb_layers = choices.0.iter().map(|g| g.layers.len()).sum();
        choices.layers(times, INT8, &vec![true; nb_layers]).iter().map(|l| l.verdict).collect()
    }

    #[test]
    fn layers_are_slower_by_2_percent_and_more_than_noise() {
        let mut times = Times(vec![
            executor(&[100.0, 100.0, 100.0, 100.0]),
            executor(&[50.0, 101.5, 104.0, 104.0]),
        ]);
        (times.0[FLOAT][3], times.0[INT8][3]) = (rounds(100.0, 40.0, 0), rounds(104.0, 40.0, 10));
        let mut choices = choices(&[&[0], &[1], &[2], &[3]]);
        assert_eq!(choices.slower(&times, INT8), [2], "faster, 1.5 %, 4 %, 4 % in noise of 40 %");
        choices.0[2].state = State::NoChoice;
        assert_eq!(choices.slower(&times, INT8), [0; 0]);
    }

    #[test]
    fn layers_that_f32_computes_in_one_step_are_decided_together() {
        let times = |branch: f64| {
            Times(vec![executor(&[100.0, 0.0, 50.0]), executor(&[60.0, branch, 50.0])])
        };
        let mut choices = choices(&[&[0, 1], &[2]]);
        assert_eq!(choices.slower(&times(30.0), INT8), [0; 0]);
        let slow = times(50.0);
        assert_eq!(choices.slower(&slow, INT8), [0]);
        assert_eq!(choices.in_float(&[0]).collect::<Vec<_>>(), [0, 1]);

        let trial = executor(&[60.0, 45.0, 50.0]);
        let times = Times([slow.0, vec![trial]].concat());
        assert!(choices.judge(&[0], vec![0, 1, 2, 3], &times), "5 less in the branch");
        assert_eq!(verdicts(&choices, &times), [Verdict::Slower, Verdict::Slower, Verdict::Int8]);
        let layers = choices.layers(&times, TRIAL, &[true, false, true]);
        assert_eq!((layers[0].within, layers[1].within), (None, Some(0)));
        let ns = |time: Time| time.ns;
        assert_eq!((layers[0].f32.ns, layers[0].int8.map(ns)), (100, Some(110)));
        assert_eq!(layers[1].verdict, Verdict::NoChoice, "it was excluded");
    }

    #[test]
    fn what_conversions_make_slower_is_taken_back() {
        // Layers 0 and 2 are slower in int8; conversions in node 1 cost what the first one saves.
        let measured =
            [executor(&[100.0, 10.0, 100.0, 50.0]), executor(&[110.0, 10.0, 110.0, 25.0])];
        let tried = |nodes: &[f64]| Times([&measured[..], &[executor(nodes)]].concat());
        let mut choices = choices(&[&[0], &[2], &[3]]);
        let times = tried(&[100.0, 30.0, 100.0, 25.0]);
        assert_eq!(choices.slower(&times, INT8), [0, 1]);
        assert!(!choices.judge(&[0, 1], vec![1, 1, 2, 3, 4], &times));
        assert_eq!(choices.in_float(&[]).count(), 0, "the other is tried again, alone");
        assert_eq!(choices.slower(&times, INT8), [1]);
        let times = tried(&[110.0, 10.0, 100.0, 25.0]);
        assert!(choices.judge(&[1], vec![0, 1, 2, 3, 4], &times));
        assert_eq!(choices.slower(&times, INT8), [0; 0]);
        let expected = [Verdict::KeptByConversions, Verdict::Slower, Verdict::Int8];
        assert_eq!(verdicts(&choices, &times), expected);
    }

    #[test]
    fn areas_are_connected_by_values_stored_otherwise() {
        let shape = Shape::new(1, 1, 1);
        let port = Port { name: "x".to_owned(), value: ValueId(0), shape, axes: AxisOrder::nchw() };
        let clamp = |input: u32| Node {
            name: String::new(),
            op: Op::Clamp(Clamp::NONE),
            inputs: vec![ValueId(input)],
        };
        let int8 = Some(Quantization { scale: 1.0, zero_point: 0, max: 127 });
        let graph = |quantization| Graph {
            inputs: vec![port.clone()],
            nodes: vec![clamp(0), clamp(1), clamp(1), clamp(3)],
            quantization,
            ..Graph::default()
        };
        let before = graph(vec![int8; 5]);
        assert_eq!(areas(&before, &before), [0, 1, 2, 3, 4]);
        let area = areas(&before, &graph(vec![int8, None, int8, int8, int8]));
        assert_eq!([area[1], area[2]], [area[0]; 2], "the writer and both readers");
        assert!(area[3] != area[0] && area[4] == 4);
        let area = areas(&before, &graph(vec![None, int8, int8, int8, int8]));
        assert_eq!(area[0], area[4], "the image and who reads it");
    }
}
