//! `bench`: latency and throughput.

mod scenario;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use skipstone::tune::TableUse;
use skipstone::{Executor, ExecutorOptions};

use crate::exit::Exit;
use crate::layers::{Layer, profile_table};
use crate::model::{ExecutionArgs, OpenArgs, TableArgs};
use crate::system;
use crate::ui::{Ui, write_json};
use crate::units::{self, ms};

/// Measure latency and throughput
///
/// The input is random, and the same every time. Opening and planning, the first run and the steady
/// state are told apart. With `--scenario`, a session with a queue gets MLPerf's load.
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
    /// Measure for at least this long
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = parse_seconds)]
    min_secs: f64,
    /// Measure at least this many runs, queries of a scenario, or images of `offline`
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = units::parse_positive)]
    num_runs: usize,
    /// Runs before measuring, the first one included
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = units::parse_positive)]
    warmup_runs: usize,
    /// Also measure each layer
    #[arg(long)]
    profile: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: scenario::ScenarioArgs,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    tables: TableArgs,
    #[command(flatten)]
    open: OpenArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    version: &'a str,
    model: String,
    network: &'a str,
    cpu: String,
    isa: &'a str,
    numerics: &'a str,
    /// Whether the plan uses measured choices.
    tuned: bool,
    /// Which choices, in words.
    table: String,
    threads: usize,
    batch: usize,
    input_dims: &'a [usize],
    macs: u64,
    /// From the process's start to a finished plan.
    init_ms: f64,
    first_ms: f64,
    runs: usize,
    latency_ms: Latency,
    throughput_ips: f64,
    gmacs_per_s: f64,
    arena_bytes: usize,
    scratch_bytes: usize,
    repacked_bytes: usize,
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Layer<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    min: f64,
    median: f64,
    mean: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    if let Some(scenario) = args.load.scenario {
        return scenario::run(args, scenario, ui);
    }
    let model = args.open.open(&args.model)?;
    let runtime = args.execution.start(ui)?;
    let options = ExecutorOptions {
        batch: args.batch,
        input_size: args.input_size,
        profile: args.profile,
        numerics: args.execution.numerics,
        tables: args.tables.tables(),
        ..Default::default()
    };
    let mut executor = Executor::new(&runtime, &model, &options)?;
    let init = ui.elapsed();

    let inputs: Vec<Vec<f32>> = (0..model.graph().inputs.len())
        .map(|i| Noise::new(i as u64).take(executor.input_dims(i).iter().product()).collect())
        .collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let first = time(|| executor.run(&inputs))?;
    for _ in 1..args.warmup_runs {
        executor.run(&inputs)?;
    }

    let mut latencies = vec![];
    let mut times_ns = vec![0.0; executor.plan().steps.len()];
    let start = Instant::now();
    while latencies.len() < args.num_runs || start.elapsed().as_secs_f64() < args.min_secs {
        latencies.push(time(|| executor.run(&inputs))?);
        for (sum, ns) in times_ns.iter_mut().zip(executor.step_times_ns()) {
            *sum += *ns as f64;
        }
    }
    let total = start.elapsed();
    times_ns.iter_mut().for_each(|sum| *sum /= latencies.len() as f64);

    let plan = executor.plan();
    let latency_ms = Latency::of(&mut latencies);
    let macs: u64 = plan.steps.iter().map(|s| s.macs).sum();
    let report = Report {
        schema_version: 1,
        version: env!("CARGO_PKG_VERSION"),
        model: args.model.display().to_string(),
        network: &model.graph().name,
        cpu: system::cpu_model(),
        isa: runtime.report().isa.name(),
        numerics: args.execution.numerics.name(),
        tuned: plan.table == TableUse::Used,
        table: plan.table.to_string(),
        threads: runtime.report().threads,
        batch: args.batch,
        input_dims: if inputs.is_empty() { &[] } else { executor.input_dims(0) },
        macs,
        init_ms: ms(init),
        first_ms: ms(first),
        runs: latencies.len(),
        latency_ms,
        throughput_ips: (latencies.len() * args.batch) as f64 / total.as_secs_f64(),
        gmacs_per_s: macs as f64 / (latency_ms.median * 1e6),
        arena_bytes: plan.arena_bytes,
        scratch_bytes: plan.scratch_bytes,
        repacked_bytes: plan.repacked_bytes,
        peak_rss_bytes: system::peak_rss_bytes(),
        layers: if args.profile { Layer::all(plan, &times_ns) } else { vec![] },
    };
    let mut out = ui.stdout();
    if args.json {
        write_json(&mut out, &report)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

impl Report<'_> {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Latency { min, median, mean, p90, p99, max } = self.latency_ms;
        writeln!(out, "{} on {}, skipstone {}", self.model, self.cpu, self.version)?;
        writeln!(
            out,
            "{}, {} threads, batch {}, input {:?}, {} MACs",
            self.isa,
            self.threads,
            self.batch,
            self.input_dims,
            units::count(self.macs),
        )?;
        writeln!(out, "choices     {}", self.table)?;
        writeln!(out, "init        {:.2} ms (process start to finished plan)", self.init_ms)?;
        writeln!(out, "first run   {:.2} ms", self.first_ms)?;
        writeln!(
            out,
            "latency     {median:.2} ms median of {} runs; {min:.2} min, {mean:.2} mean, {p90:.2} p90, {p99:.2} p99, {max:.2} max",
            self.runs,
        )?;
        writeln!(
            out,
            "throughput  {:.1} images/s, {:.1} GMAC/s",
            self.throughput_ips, self.gmacs_per_s
        )?;
        writeln!(
            out,
            "memory      {} peak resident; activations {}, scratch {}, repacked weights {}",
            self.peak_rss_bytes.map_or("unknown".to_owned(), units::bytes),
            units::bytes(self.arena_bytes as u64),
            units::bytes(self.scratch_bytes as u64),
            units::bytes(self.repacked_bytes as u64),
        )?;
        if !self.layers.is_empty() {
            writeln!(out, "\n{}", profile_table(&self.layers).trim_fmt())?;
        }
        Ok(())
    }
}

impl Latency {
    /// Sorts `times`, of which there is at least one.
    fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        Self {
            min: ms(times[0]),
            median: percentile(times, 0.5),
            mean: ms(mean),
            p90: percentile(times, 0.9),
            p99: percentile(times, 0.99),
            max: ms(times[times.len() - 1]),
        }
    }
}

/// In milliseconds, between the two nearest ranks as NumPy's `percentile`.
fn percentile(sorted: &[Duration], fraction: f64) -> f64 {
    let rank = (sorted.len() - 1) as f64 * fraction;
    let (below, above) = (ms(sorted[rank.floor() as usize]), ms(sorted[rank.ceil() as usize]));
    below + (above - below) * rank.fract()
}

fn time(run: impl FnOnce() -> skipstone::Result<()>) -> skipstone::Result<Duration> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

/// Uniform random numbers in -1..1, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// In 0..1.
    fn fraction(&mut self) -> f64 {
        // Knuth's MMIX generator; its high bits are good enough to measure with.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1 << 24) as f64
    }
}

impl Iterator for Noise {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        Some((2.0 * self.fraction() - 1.0) as f32)
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0);
    seconds.ok_or_else(|| "expected seconds, 0 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        let mut times: Vec<_> = [40, 10, 30, 20].map(Duration::from_millis).into();
        let latency = Latency::of(&mut times);
        assert_eq!((latency.min, latency.max, latency.mean), (10.0, 40.0, 25.0));
        assert!((latency.median - 25.0).abs() < 1e-9);
        assert!((latency.p90 - 37.0).abs() < 1e-9);
        assert_eq!(Latency::of(&mut times[..1]).p99, 10.0);
    }

    #[test]
    fn noise_is_repeatable_and_within_bounds() {
        let noise = || Noise::new(7).take(1000).collect::<Vec<_>>();
        let values = noise();
        assert_eq!(values, noise());
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
    }
}
