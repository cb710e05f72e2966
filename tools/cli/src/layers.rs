//! A plan's steps, as a table or JSON, with or without times.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;
use skipstone::graph::{Graph, Shape};
use skipstone::plan::{PlanSummary, StepSummary};
use skipstone::tune::Measured;

use crate::int8_times::LayerTimes;
use crate::ui::table;
use crate::units;

/// One step in JSON.
#[derive(Serialize)]
pub(crate) struct Layer<'a> {
    name: &'a str,
    op: &'a str,
    inputs: Vec<[usize; 3]>,
    output: [usize; 3],
    algorithm: &'a str,
    kernel: &'a str,
    split: &'a str,
    /// Of an int8 convolution by groups: percent of its weights in groups of 4, of 3, of 2, and alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups_percent: Option<[f64; 4]>,
    #[serde(flatten)]
    choice: Option<Choice<'a>>,
    /// What `quantize --measure` found.
    #[serde(skip_serializing_if = "Option::is_none")]
    int8_vs_f32: Option<&'a LayerTimes>,
    macs: u64,
    weight_bytes: u64,
    activation_bytes: u64,
    #[serde(flatten)]
    time: Option<Time>,
}

/// How a convolution or linear layer is computed, and why.
#[derive(Serialize)]
pub(crate) struct Choice<'a> {
    method: &'a str,
    chosen_by: &'a str,
    /// What was measured on this machine; empty without a table for it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    measured: &'a [Measured],
}

/// How long a step takes.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Time {
    time_ms: f64,
    percent: f64,
    gmacs_per_s: f64,
}

impl<'a> Layer<'a> {
    /// All steps; `times_ns` has each step's mean time, or is empty.
    pub(crate) fn all(plan: &'a PlanSummary, times_ns: &[f64]) -> Vec<Self> {
        let total: f64 = times_ns.iter().sum();
        let dims = |s: &Shape| [s.c, s.h, s.w];
        let layer = |(i, step): (usize, &'a StepSummary)| Layer {
            name: &step.name,
            op: step.op,
            inputs: step.inputs.iter().map(dims).collect(),
            output: dims(&step.output),
            algorithm: step.algorithm,
            kernel: step.kernel,
            split: step.split,
            groups_percent: step.groups.map(percent),
            choice: step.choice.as_ref().map(|choice| Choice {
                method: choice.method,
                chosen_by: choice.reason.name(),
                measured: &choice.measured,
            }),
            int8_vs_f32: None,
            macs: step.macs,
            weight_bytes: step.weight_bytes,
            activation_bytes: step.activation_bytes,
            time: times_ns.get(i).map(|ns| Time {
                time_ms: ns / 1e6,
                percent: ns / total * 100.0,
                gmacs_per_s: step.macs as f64 / ns,
            }),
        };
        plan.steps.iter().enumerate().map(layer).collect()
    }

    /// Adds the times that a file notes of its layers, by name, each to the layer's first step with weights.
    pub(crate) fn add_int8_times(
        layers: &mut [Self],
        (plan, graph): (&PlanSummary, &Graph),
        times: &'a BTreeMap<String, LayerTimes>,
    ) {
        for (i, node) in graph.nodes.iter().enumerate() {
            let computes = |step: &StepSummary| step.node == Some(i) && step.macs > 0;
            if let Some(first) = plan.steps.iter().position(computes) {
                layers[first].int8_vs_f32 = times.get(&node.name);
            }
        }
    }
}

/// What each step is and where it runs.
pub(crate) fn plan_table(layers: &[Layer]) -> Table {
    let headings = [
        "layer",
        "op",
        "input",
        "output",
        "algorithm",
        "kernel",
        "split",
        "chosen by",
        "MACs",
        "weights",
        "activations",
        "groups 4/3/2/1 (%)",
        "measured (ms)",
        "f32 / int8 (ms)",
    ];
    let any_groups = layers.iter().any(|l| l.groups_percent.is_some());
    let any_measured = layers.iter().flat_map(|l| &l.choice).any(|c| !c.measured.is_empty());
    let any_int8_times = layers.iter().any(|l| l.int8_vs_f32.is_some());
    // The last three columns only where they say something.
    let is_shown = |column: usize| match column {
        11 => any_groups,
        12 => any_measured,
        13 => any_int8_times,
        _ => true,
    };
    fn shown<T>(cells: [T; 14], is_shown: impl Fn(usize) -> bool) -> Vec<T> {
        let cells = cells.into_iter().enumerate();
        cells.filter(|(i, _)| is_shown(*i)).map(|(_, cell)| cell).collect()
    }
    let mut rows = table(&shown(headings, is_shown), &[8, 9, 10]);
    for layer in layers {
        let choice = layer.choice.as_ref();
        let times = |choice: &Choice| -> Vec<_> {
            let mark = |m: &Measured| if m.method == choice.method { "*" } else { "" };
            let time = |m: &Measured| m.ns as f64 / 1e6;
            let each = choice.measured.iter();
            each.map(|m| format!("{}{} {:.3}", mark(m), m.method, time(m))).collect()
        };
        let inputs: Vec<_> = layer.inputs.iter().map(shape).collect();
        let groups = layer
            .groups_percent
            .map_or(String::new(), |percent| percent.map(|p| format!("{p:.0}")).join("/"));
        rows.add_row(shown(
            [
                layer.name,
                layer.op,
                &inputs.join(" "),
                &shape(&layer.output),
                layer.algorithm,
                layer.kernel,
                layer.split,
                choice.map_or("", |c| c.chosen_by),
                &units::count(layer.macs),
                &units::bytes(layer.weight_bytes),
                &units::bytes(layer.activation_bytes),
                &groups,
                &choice.map_or(vec![], times).join(", "),
                &layer.int8_vs_f32.map_or(String::new(), LayerTimes::to_string),
            ],
            is_shown,
        ));
    }
    rows
}

/// Where the time goes.
pub(crate) fn profile_table(layers: &[Layer]) -> Table {
    let headings = ["layer", "op", "output", "ms", "%", "GMAC/s", "algorithm", "kernel", "split"];
    let mut rows = table(&headings, &[3, 4, 5]);
    for layer in layers {
        let Some(time) = layer.time else { continue };
        rows.add_row([
            layer.name,
            layer.op,
            &shape(&layer.output),
            &format!("{:.3}", time.time_ms),
            &format!("{:.1}", time.percent),
            &if layer.macs > 0 { format!("{:.1}", time.gmacs_per_s) } else { String::new() },
            layer.algorithm,
            layer.kernel,
            layer.split,
        ]);
    }
    rows
}

/// Shares of a sum.
fn percent(parts: [usize; 4]) -> [f64; 4] {
    let total = parts.iter().sum::<usize>().max(1);
    parts.map(|part| 100.0 * part as f64 / total as f64)
}

fn shape([c, h, w]: &[usize; 3]) -> String {
    Shape::new(*c, *h, *w).to_string()
}
