//! Prometheus metrics, in base units.

use std::fmt::{self, Write};
use std::fs;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::Served;
use crate::repository::Repository;
use crate::stats::{Outcome, Stages};

/// Upper bounds of latency buckets in seconds, half a millisecond to ten seconds.
const SECONDS: [f64; 22] = [
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.048,
    0.064, 0.1, 0.15, 0.25, 0.4, 0.7, 1.5, 3.0, 10.0,
];

const PREFIX: &str = "skipstone";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByModel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByOutcome {
    model: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStage {
    model: String,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReload {
    model: String,
    outcome: &'static str,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

type Histograms<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// All metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<ByOutcome, Counter>,
    request_seconds: Histograms<ByModel>,
    stage_seconds: Histograms<ByStage>,
    reloads: Family<ByReload, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) panics: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut all = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            stage_seconds: Family::new_with_constructor(seconds),
            reloads: Family::default(),
            connections: Gauge::default(),
            panics: Counter::default(),
        };
        let registry = all.registry.sub_registry_with_prefix(PREFIX);
        registry.register("requests", "Inference requests by outcome", all.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to its answer, answered requests",
            Unit::Seconds,
            all.request_seconds.clone(),
        );
        registry.register_with_unit(
            "stage_duration",
            "Where the time went: decode, queue, compute, encode",
            Unit::Seconds,
            all.stage_seconds.clone(),
        );
        registry.register("model_reloads", "Model files loaded or refused", all.reloads.clone());
        registry.register("connections", "Open connections", all.connections.clone());
        registry.register("panics", "Requests that ended in a panic", all.panics.clone());
        all
    }

    /// Adds what is read at each scrape.
    pub(crate) fn watch(&mut self, repository: &Arc<Repository>) {
        let models = ModelCollector(Arc::downgrade(repository));
        self.registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(models));
        self.registry.register_collector(Box::new(ProcessCollector::new()));
    }

    pub(crate) fn answered(&self, model: &str, stages: &Stages) {
        let seconds = |time: Duration| time.as_secs_f64();
        let by_model = ByModel { model: model.to_owned() };
        self.request_seconds.get_or_create(&by_model).observe(seconds(stages.total));
        for (stage, time) in [
            ("decode", stages.decode),
            ("queue", stages.queue),
            ("compute", stages.compute),
            ("encode", stages.encode),
        ] {
            let labels = ByStage { model: model.to_owned(), stage };
            self.stage_seconds.get_or_create(&labels).observe(seconds(time));
        }
    }

    pub(crate) fn ended(&self, model: &str, outcome: Outcome) {
        let labels = ByOutcome { model: model.to_owned(), outcome };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn reloaded(&self, model: &str, ok: bool) {
        let outcome = if ok { "loaded" } else { "refused" };
        self.reloads.get_or_create(&ByReload { model: model.to_owned(), outcome }).inc();
    }

    /// The exposition, in OpenMetrics' text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What sessions count themselves.
#[derive(Debug)]
struct ModelCollector(Weak<Repository>);

impl Collector for ModelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(repository) = self.0.upgrade() else { return Ok(()) };
        let models: Vec<Snapshot> = repository.all().into_iter().map(Snapshot::new).collect();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for snapshot in &models {
                let labels = [("model", snapshot.served.name.as_str())];
                ConstGauge::new(value(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for snapshot in &models {
                let labels = [("model", snapshot.served.name.as_str())];
                ConstCounter::new(value(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Models being served";
        let mut info = encoder.encode_descriptor("model_info", help, None, MetricType::Gauge)?;
        for Snapshot { served, .. } in &models {
            let (hash, isa) = (served.hash(), served.session.report().runtime.isa.to_string());
            let labels = [
                ("model", served.name.as_str()),
                ("version", served.version.as_str()),
                ("isa", isa.as_str()),
                ("hash", &hash[..16]),
            ];
            ConstGauge::new(1u64).encode(info.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// A model and its session's counters at one time.
struct Snapshot {
    served: Arc<Served>,
    session: skipstone::session::Stats,
}

impl Snapshot {
    fn new(served: Arc<Served>) -> Self {
        Self { session: served.session.stats(), served }
    }
}

type Reading = (&'static str, &'static str, fn(&Snapshot) -> u64);

const GAUGES: [Reading; 6] = [
    ("queue_depth", "Images that wait for a stream", |m| m.session.queued_images as u64),
    ("running_images", "Images in batches that run", |m| m.session.running_images as u64),
    ("inflight_images", "Images that are decoded, wait or run", |m| m.served.busy_places() as u64),
    ("inflight_capacity", "Images that may be in flight; more are refused", |m| {
        m.served.capacity as u64
    }),
    ("streams", "Batches that may run at the same time", |m| {
        m.served.session.report().streams as u64
    }),
    ("threads", "Threads of each stream", |m| m.served.session.report().runtime.threads as u64),
];

const COUNTERS: [Reading; 2] = [
    ("images", "Images that ran, since the model was loaded", |m| m.session.images),
    ("executions", "Batches that ran, since the model was loaded", |m| m.session.executions),
];

/// The metrics that every Prometheus client library has.
#[derive(Debug)]
struct ProcessCollector {
    started: f64,
}

impl ProcessCollector {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: now.as_secs_f64() }
    }
}

/// Ticks per second of /proc/self/stat on Linux, a constant of its ABI on the platforms served.
const TICKS: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// CPU seconds and resident bytes.
fn process_usage() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some(((number(11)? + number(12)?) / TICKS, number(21)? * PAGE_BYTES))
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some((cpu, rss)) = process_usage() {
            let help = "User and system CPU time spent";
            let metric = encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?;
            ConstCounter::new(cpu).encode(metric)?;
            let help = "Resident memory";
            let metric = encoder.encode_descriptor(
                "process_resident_memory",
                help,
                Some(&Unit::Bytes),
                MetricType::Gauge,
            )?;
            ConstGauge::new(rss).encode(metric)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let metric = encoder.encode_descriptor(
                "process_open_fds",
                "Open file descriptors",
                None,
                MetricType::Gauge,
            )?;
            ConstGauge::new(files.count() as u64).encode(metric)?;
        }
        let help = "Start of the process since the Unix epoch";
        let metric = encoder.encode_descriptor(
            "process_start_time",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.started).encode(metric)
    }
}
