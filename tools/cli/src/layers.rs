//! A plan's steps, as a table or JSON, with or without times.

use comfy_table::Table;
use serde::Serialize;
use skipstone::graph::Shape;
use skipstone::plan::{PlanSummary, StepSummary};

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
    macs: u64,
    weight_bytes: u64,
    activation_bytes: u64,
    #[serde(flatten)]
    time: Option<Time>,
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
        "MACs",
        "weights",
        "activations",
    ];
    let mut rows = table(&headings, &[7, 8, 9]);
    for layer in layers {
        let inputs: Vec<_> = layer.inputs.iter().map(shape).collect();
        rows.add_row([
            layer.name,
            layer.op,
            &inputs.join(" "),
            &shape(&layer.output),
            layer.algorithm,
            layer.kernel,
            layer.split,
            &units::count(layer.macs),
            &units::bytes(layer.weight_bytes),
            &units::bytes(layer.activation_bytes),
        ]);
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

fn shape([c, h, w]: &[usize; 3]) -> String {
    Shape::new(*c, *h, *w).to_string()
}
