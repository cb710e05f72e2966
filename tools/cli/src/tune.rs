//! `tune`: the fastest method of each layer on this machine, by measurement.

use std::io::Write;
use std::path::PathBuf;

use comfy_table::Table;
use serde::Serialize;
use skipstone::Model;
use skipstone::tune::{self, Key, Layer, Measured, Progress, TuneOptions, Tuned};

use crate::exit::Exit;
use crate::interrupt;
use crate::model::{ExecutionArgs, OpenArgs};
use crate::ui::{Ui, table, write_json};
use crate::units;

/// Measure what is fastest for each layer on this machine, and store it in the file
///
/// Every method that a layer can have is timed inside the running network. The choices hold for this
/// CPU, instruction set, number of threads, batch, input size and numerics class; whatever else the
/// file holds, also choices for other machines, stays. Plans for exactly this case use them from now on.
/// Let the machine be idle meanwhile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model
    model: PathBuf,
    /// Images per run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::parse_positive)]
    batch: usize,
    /// Height and width of the input [default: the network's]
    #[arg(long, value_name = "HxW", value_parser = units::parse_size)]
    input_size: Option<[usize; 2]>,
    /// Measured runs per method; more tell smaller differences
    #[arg(long, value_name = "N", default_value_t = TuneOptions::default().rounds)]
    rounds: usize,
    /// Try schedules only, not other algorithms: results stay the same to the bit
    ///
    /// Without it, a file tuned for several numbers of threads may use different algorithms with
    /// them, whose results differ by rounding.
    #[arg(long)]
    keep_algorithms: bool,
    /// Only show what was measured, store nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    open: OpenArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    model: String,
    network: &'a str,
    key: &'a Key,
    stored: bool,
    rounds: usize,
    heuristic_ms: f64,
    tuned_ms: f64,
    layers: Vec<Row<'a>>,
}

/// One layer.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    heuristic: &'a str,
    chosen: &'a str,
    /// What the choice saves of the layer's time.
    gain_percent: f64,
    candidates: Vec<Candidate<'a>>,
}

#[derive(Serialize)]
struct Candidate<'a> {
    method: &'a str,
    time_ms: f64,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    interrupt::clean_up()?;
    let model = args.open.open(&args.model)?;
    let runtime = args.execution.start(ui)?;
    let options = TuneOptions {
        batch: args.batch,
        input_size: args.input_size,
        numerics: args.execution.numerics,
        keep_algorithms: args.keep_algorithms,
        rounds: args.rounds,
    };
    let bar = ui.progress(0);
    let tuned = tune::tune(&model, &runtime, &options, &mut |Progress { done, total }| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if !args.dry_run {
        tune::store(&args.model, model.graph(), &tuned.table)?;
    }
    let report = Report::new(args, &model, &tuned);
    let mut out = ui.stdout();
    if args.json {
        write_json(&mut out, &report)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

impl<'a> Report<'a> {
    fn new(args: &Args, model: &'a Model, tuned: &'a Tuned) -> Self {
        let layers = tuned.table.layers.iter().zip(&tuned.heuristic);
        let [before, after] = tuned.run_ns.map(ms);
        Self {
            schema_version: 1,
            model: args.model.display().to_string(),
            network: &model.graph().name,
            key: &tuned.table.key,
            stored: !args.dry_run,
            rounds: args.rounds,
            heuristic_ms: before,
            tuned_ms: after,
            layers: layers.map(|(layer, heuristic)| Row::new(model, layer, heuristic)).collect(),
        }
    }

    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "{}\n", self.table().trim_fmt())?;
        let changed = self.layers.iter().filter(|l| l.chosen != l.heuristic).count();
        writeln!(out, "for         {}", self.key)?;
        writeln!(out, "layers      {changed} of {} gain by another method", self.layers.len())?;
        let gain = percent(self.heuristic_ms, self.tuned_ms);
        writeln!(
            out,
            "run         {:.2} ms by rules of thumb, {:.2} ms tuned: {gain:.1} % less (medians of {})",
            self.heuristic_ms, self.tuned_ms, self.rounds,
        )?;
        let stored = if self.stored { "in the file" } else { "nowhere (--dry-run)" };
        writeln!(out, "stored      {stored}")?;
        Ok(())
    }

    fn table(&self) -> Table {
        let mut rows = table(&["layer", "method", "ms", "gain %", "others (ms)"], &[2, 3]);
        for layer in &self.layers {
            let others = layer.candidates.iter().filter(|c| c.method != layer.chosen);
            let others: Vec<_> = others.map(|c| format!("{} {:.3}", c.method, c.time_ms)).collect();
            let gain = match layer.chosen == layer.heuristic {
                true => String::new(),
                false => format!("{:.1}", layer.gain_percent),
            };
            let time = format!("{:.3}", layer.time_of(layer.chosen));
            rows.add_row([layer.name, layer.chosen, &time, &gain, &others.join(", ")]);
        }
        rows
    }
}

impl<'a> Row<'a> {
    fn new(model: &'a Model, layer: &'a Layer, heuristic: &'a str) -> Self {
        let candidate = |m: &'a Measured| Candidate { method: &m.method, time_ms: ms(m.ns) };
        let mut row = Self {
            name: &model.graph().nodes[layer.node].name,
            heuristic,
            chosen: &layer.method,
            gain_percent: 0.0,
            candidates: layer.measured.iter().map(candidate).collect(),
        };
        row.gain_percent = percent(row.time_of(heuristic), row.time_of(&layer.method));
        row
    }

    fn time_of(&self, method: &str) -> f64 {
        self.candidates.iter().find(|c| c.method == method).map_or(0.0, |c| c.time_ms)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// How much less `after` is than `before`.
fn percent(before: f64, after: f64) -> f64 {
    if before > 0.0 { (1.0 - after / before) * 100.0 } else { 0.0 }
}
