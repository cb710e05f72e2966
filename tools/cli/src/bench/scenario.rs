//! `bench --scenario`: MLPerf's four load patterns on a [`Session`].
//!
//! Rules and metrics are those of MLPerf Inference's LoadGen: how queries arrive, which latency is
//! judged, and that a percentile is the sorted latency at index `count * percentile`. Early stopping
//! and the accuracy mode are LoadGen's own: `tools/loadgen` runs it.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use skipstone::session::{ImageOrder, Tensor};
use skipstone::{ErrorKind, ExecutorOptions, Hint, Session, TensorView};

use super::{Args, Noise};
use crate::exit::Exit;
use crate::system;
use crate::ui::{Ui, write_json};
use crate::units::{self, ms};

/// Images per query of [`Scenario::MultiStream`].
const STREAM_IMAGES: usize = 8;
/// Of latencies, in the report.
const PERCENTILES: [f64; 6] = [0.5, 0.9, 0.95, 0.97, 0.99, 0.999];

/// Load as MLPerf's scenarios have it.
#[derive(clap::Args)]
pub(super) struct ScenarioArgs {
    /// Queries as in this MLPerf scenario, instead of runs one after the other
    #[arg(long, value_enum, conflicts_with_all = ["batch", "profile", "warmup_runs"])]
    pub(super) scenario: Option<Scenario>,
    /// What streams and threads are chosen for: `latency` or `throughput` [default: by the scenario]
    #[arg(long, requires = "scenario")]
    hint: Option<Hint>,
    /// Batches that may run at the same time [default: by the hint]
    #[arg(long, value_name = "N", value_parser = units::parse_positive, requires = "scenario")]
    streams: Option<usize>,
    /// Most images in a batch [default: by the hint]
    #[arg(long, value_name = "N", value_parser = units::parse_positive, requires = "scenario")]
    max_batch: Option<usize>,
    /// Queries per second of `server`
    #[arg(long, value_name = "N", value_parser = parse_rate, requires = "scenario",
        required_if_eq("scenario", "server"))]
    target_qps: Option<f64>,
    /// What 99 % of the queries of `server` must be answered within
    #[arg(long, value_name = "MS", value_parser = parse_rate, requires = "scenario",
        default_value_t = 15.0)]
    target_latency_ms: f64,
}

/// How queries arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Scenario {
    /// One image; the next when it is answered. The metric is the 90th percentile of latency
    SingleStream,
    /// Eight images; the next eight when all are answered. The 99th percentile of latency
    MultiStream,
    /// One image at random times (Poisson). The rate, if the 99th percentile of latency is in bounds
    Server,
    /// All images are there at once. Images per second
    Offline,
}

impl Scenario {
    fn hint(self) -> Hint {
        match self {
            Self::SingleStream => Hint::Latency,
            _ => Hint::Throughput,
        }
    }

    /// Of the latency that is judged, if one is.
    fn percentile(self) -> Option<f64> {
        match self {
            Self::SingleStream => Some(0.9),
            Self::MultiStream | Self::Server => Some(0.99),
            Self::Offline => None,
        }
    }
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
    scenario: Scenario,
    hint: &'a str,
    streams: usize,
    /// Of each stream.
    threads: usize,
    max_batch: usize,
    images_per_query: usize,
    queries: usize,
    /// Queries that found the queue full; of `server` only.
    refused: usize,
    seconds: f64,
    mean_batch: f64,
    /// From a query's arrival to its last result.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<Latency>,
    metric: Metric,
    /// Whether the scenario's bounds were kept.
    valid: bool,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Metric {
    name: &'static str,
    value: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p97: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// What was measured.
#[derive(Default)]
struct Outcome {
    /// Of each query that was answered; none for `offline`.
    latencies: Vec<Duration>,
    images: usize,
    refused: usize,
    elapsed: Duration,
}

/// The system under test, and what it is fed with.
struct Bench<'a> {
    session: &'a Session,
    /// Per input, one image.
    image: Vec<Vec<f32>>,
    min_queries: usize,
    min_time: Duration,
}

pub(super) fn run(args: &Args, scenario: Scenario, ui: &Ui) -> anyhow::Result<Exit> {
    let model = args.open.open(&args.model)?;
    let load = &args.load;
    let mut builder = Session::builder(&model)
        .hint(load.hint.unwrap_or(scenario.hint()))
        .warm_up(true)
        .options(ExecutorOptions {
            input_size: args.input_size,
            numerics: args.execution.numerics,
            tables: args.tables.tables(),
            ..Default::default()
        });
    if let Some(threads) = args.execution.threads {
        builder = builder.threads(threads);
    }
    if let Some(streams) = load.streams {
        builder = builder.streams(streams);
    }
    if let Some(max_batch) = load.max_batch {
        builder = builder.max_batch(max_batch);
    }
    let session = builder.build()?;
    let image = session.inputs().iter().enumerate();
    let bench = Bench {
        session: &session,
        image: image
            .map(|(i, port)| Noise::new(i as u64).take(port.shape.len()).collect())
            .collect(),
        min_queries: args.num_runs,
        min_time: Duration::from_secs_f64(args.min_secs),
    };
    let mut outcome = match scenario {
        Scenario::SingleStream => bench.streams(1),
        Scenario::MultiStream => bench.streams(STREAM_IMAGES),
        Scenario::Server => bench.server(load.target_qps.unwrap_or_default()),
        Scenario::Offline => bench.offline(),
    }?;
    let report = bench.report(args, scenario, &mut outcome);
    let mut out = ui.stdout();
    if args.json {
        write_json(&mut out, &report)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    Ok(if report.valid { Exit::Ok } else { Exit::Failure })
}

impl Bench<'_> {
    /// One query of so many images after the other.
    fn streams(&self, images: usize) -> anyhow::Result<Outcome> {
        let (mut outcome, start) = (Outcome::default(), Instant::now());
        let mut request = Request::new(self, images);
        while self.goes_on(outcome.latencies.len(), start) {
            let issued = Instant::now();
            request.run(self.session)?;
            outcome.latencies.push(issued.elapsed());
            outcome.images += images;
        }
        outcome.elapsed = start.elapsed();
        Ok(outcome)
    }

    /// Queries of one image, at times that do not depend on the answers.
    fn server(&self, qps: f64) -> anyhow::Result<Outcome> {
        let (mut outcome, start) = (Outcome::default(), Instant::now());
        let (sender, receiver) = mpsc::channel();
        let (mut due, mut queries, mut noise) = (start, 0, Noise::new(99));
        while self.goes_on(queries, start) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let inputs = self.image.iter().map(|x| Tensor::f32(x.clone(), ImageOrder::Native));
            let (sender, scheduled) = (sender.clone(), due);
            let done = move |response: skipstone::Result<_>| {
                // The receiver lives until all senders are gone.
                let _ = sender.send(response.map(|_| scheduled.elapsed()));
            };
            match self.session.submit_with(inputs.collect(), None, done) {
                Err(error) if error.kind() == ErrorKind::QueueFull => outcome.refused += 1,
                other => other?,
            }
            queries += 1;
            due += Duration::from_secs_f64(-(1.0 - noise.fraction()).ln() / qps);
        }
        drop(sender);
        outcome.latencies = receiver.iter().collect::<skipstone::Result<_>>()?;
        outcome.images = outcome.latencies.len();
        outcome.elapsed = start.elapsed();
        Ok(outcome)
    }

    /// As many images as there is room for, all the time.
    fn offline(&self) -> anyhow::Result<Outcome> {
        let report = self.session.report();
        let batch = report.batch_sizes.last().copied().unwrap_or(1);
        let (begun, start) = (AtomicUsize::new(0), Instant::now());
        let client = || {
            let mut request = Request::new(self, batch);
            while self.goes_on(begun.fetch_add(batch, Ordering::Relaxed), start) {
                request.run(self.session)?;
            }
            Ok::<_, skipstone::Error>(())
        };
        thread::scope(|scope| {
            // One batch runs and one waits for each stream.
            let clients: Vec<_> = (0..2 * report.streams).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|client| match client.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let images = begun.into_inner() - 2 * report.streams * batch;
        Ok(Outcome { images, elapsed: start.elapsed(), ..Outcome::default() })
    }

    fn goes_on(&self, queries: usize, start: Instant) -> bool {
        queries < self.min_queries || start.elapsed() < self.min_time
    }

    fn report<'a>(&'a self, args: &Args, scenario: Scenario, outcome: &mut Outcome) -> Report<'a> {
        let (session, stats) = (self.session.report(), self.session.stats());
        let judged = scenario.percentile().map(|p| ms(percentile(&mut outcome.latencies, p)));
        let seconds = outcome.elapsed.as_secs_f64();
        let throughput = outcome.images as f64 / seconds;
        let (name, value) = match (scenario, judged) {
            (Scenario::SingleStream, Some(latency)) => ("90th percentile latency (ms)", latency),
            (Scenario::MultiStream, Some(latency)) => ("99th percentile latency (ms)", latency),
            (Scenario::Server, _) => ("queries per second", throughput),
            _ => ("images per second", throughput),
        };
        let in_bounds = judged.is_some_and(|latency| latency <= args.load.target_latency_ms);
        Report {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            model: args.model.display().to_string(),
            network: &self.session.model().graph().name,
            cpu: system::cpu_model(),
            isa: session.runtime.isa.name(),
            numerics: args.execution.numerics.name(),
            scenario,
            hint: session.hint.name(),
            streams: session.streams,
            threads: session.runtime.threads,
            max_batch: session.batch_sizes.last().copied().unwrap_or(1),
            images_per_query: if scenario == Scenario::MultiStream { STREAM_IMAGES } else { 1 },
            queries: if scenario == Scenario::Offline { 1 } else { outcome.latencies.len() },
            refused: outcome.refused,
            seconds,
            mean_batch: stats.images as f64 / stats.executions as f64,
            latency_ms: judged.map(|_| Latency::of(&mut outcome.latencies)),
            metric: Metric { name, value },
            valid: scenario != Scenario::Server || in_bounds && outcome.refused == 0,
            peak_rss_bytes: system::peak_rss_bytes(),
        }
    }
}

/// Images and room for their results, to run again and again.
struct Request {
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

impl Request {
    fn new(bench: &Bench<'_>, images: usize) -> Self {
        let outputs = bench.session.outputs().iter();
        Self {
            inputs: bench.image.iter().map(|image| image.repeat(images)).collect(),
            outputs: outputs.map(|port| vec![0.0; port.shape.len() * images]).collect(),
        }
    }

    fn run(&mut self, session: &Session) -> skipstone::Result<()> {
        let inputs: Vec<_> = self.inputs.iter().map(|input| TensorView::f32(input)).collect();
        let mut outputs: Vec<_> = self.outputs.iter_mut().map(Vec::as_mut_slice).collect();
        session.run(&inputs, &mut outputs, None).map(drop)
    }
}

impl Report<'_> {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{} on {}, skipstone {}", self.model, self.cpu, self.version)?;
        writeln!(
            out,
            "{}, {} streams of {} threads, batches of up to {} ({:.1} on average)",
            self.isa, self.streams, self.threads, self.max_batch, self.mean_batch,
        )?;
        let (queries, seconds, refused) = (self.queries, self.seconds, self.refused);
        writeln!(out, "queries     {queries} in {seconds:.2} s, {refused} refused")?;
        if let Some(latency) = &self.latency_ms {
            writeln!(
                out,
                "latency     {:.2} ms p50, {:.2} p90, {:.2} p95, {:.2} p99, {:.2} p99.9; {:.2} min, {:.2} max",
                latency.p50,
                latency.p90,
                latency.p95,
                latency.p99,
                latency.p99_9,
                latency.min,
                latency.max,
            )?;
        }
        let valid = if self.valid { "valid" } else { "not valid: too late, or refused" };
        writeln!(out, "result      {:.2} {}: {valid}", self.metric.value, self.metric.name)
    }
}

impl Latency {
    fn of(latencies: &mut [Duration]) -> Self {
        let [p50, p90, p95, p97, p99, p99_9] = PERCENTILES.map(|p| ms(percentile(latencies, p)));
        let sum: Duration = latencies.iter().sum();
        let max = latencies.iter().max().copied().unwrap_or_default();
        Self {
            min: ms(percentile(latencies, 0.0)),
            mean: ms(sum) / latencies.len().max(1) as f64,
            p50,
            p90,
            p95,
            p97,
            p99,
            p99_9,
            max: ms(max),
        }
    }
}

/// As LoadGen has it; 0 of nothing.
fn percentile(latencies: &mut [Duration], fraction: f64) -> Duration {
    latencies.sort_unstable();
    let index = (latencies.len() as f64 * fraction) as usize;
    latencies.get(index).copied().unwrap_or_default()
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|r: &f64| r.is_finite() && *r > 0.0);
    rate.ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_loadgens() {
        let mut latencies: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(&mut latencies);
        assert_eq!((latency.min, latency.p50, latency.p90, latency.p99), (1.0, 51.0, 91.0, 100.0));
        assert_eq!((latency.p99_9, latency.max, latency.mean), (100.0, 100.0, 50.5));
        assert_eq!(percentile(&mut [], 0.9), Duration::ZERO);
    }
}
