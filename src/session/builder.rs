//! How a session is made: hints, and what they choose.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::runner::{Plans, Stream};
use super::streams::Shared;
use super::{Session, SessionPort};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::ExecutorOptions;
use crate::graph::{Axis, Port, Shape};
use crate::model::Model;
use crate::plan::MAX_BATCH;
use crate::threads::{
    MAX_THREADS, Process, Runtime, RuntimeBuilder, RuntimeReport, choose_threads,
};

/// Most streams of a session.
const MAX_STREAMS: usize = 256;
/// Images that may wait unless the user says otherwise; more where streams take more.
const DEFAULT_QUEUE: usize = 256;
/// Images per batch, unless the user says otherwise, under [`Hint::Throughput`].
const THROUGHPUT_BATCH: usize = 4;

/// What to choose streams, threads and batches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// One request at a time, as fast as it can be: one stream on all threads, no batching.
    #[default]
    Latency,
    /// As many images per second as can be: as many streams as threads, and batches of what waits.
    Throughput,
}

impl Hint {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Latency, Self::Throughput];

    /// `latency` or `throughput`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Hint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let hint = Self::ALL.into_iter().find(|hint| hint.name() == text);
        hint.ok_or_else(|| {
            Error::invalid(format!("'{text}' is no hint: expected latency or throughput"))
        })
    }
}

/// Settings of a [`Session`]; what is not set comes from the hint.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before it builds"]
pub struct SessionBuilder {
    model: Model,
    hint: Hint,
    streams: Option<usize>,
    threads: Option<usize>,
    runtime: Option<Runtime>,
    runtime_settings: RuntimeBuilder,
    max_batch: Option<usize>,
    max_queue: Option<usize>,
    max_delay: Duration,
    warm_up: bool,
    options: ExecutorOptions,
}

/// What a session chose.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionReport {
    /// The hint.
    pub hint: Hint,
    /// Batches that may run at the same time.
    pub streams: usize,
    /// What each stream's runtime chose.
    pub runtime: RuntimeReport,
    /// Sizes of batches, ascending.
    pub batch_sizes: Vec<usize>,
    /// Images that may wait.
    pub max_queue: usize,
    /// How long an image waits for company.
    pub max_delay: Duration,
    /// Bytes of activations and scratch memory, all streams together.
    pub memory_bytes: usize,
}

impl SessionBuilder {
    pub(super) fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            hint: Hint::default(),
            streams: None,
            threads: None,
            runtime: None,
            runtime_settings: RuntimeBuilder::default(),
            max_batch: None,
            max_queue: None,
            max_delay: Duration::ZERO,
            warm_up: false,
            options: ExecutorOptions::default(),
        }
    }

    /// What to choose for; latency unless it is set.
    pub fn hint(mut self, hint: Hint) -> Self {
        self.hint = hint;
        self
    }

    /// Batches that may run at the same time, each on its share of the threads.
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Threads, all streams together; by default the CPUs this process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// A runtime to share with other sessions and executors, which then take turns; by default each
    /// stream starts its own. Excludes [`Self::threads`].
    pub fn runtime(mut self, runtime: &Runtime) -> Self {
        self.runtime = Some(runtime.clone());
        self
    }

    /// How the streams' runtimes are made; the number of their threads is chosen here.
    pub fn runtime_settings(mut self, settings: RuntimeBuilder) -> Self {
        self.runtime_settings = settings;
        self
    }

    /// Most images in a batch. Batches have this size, or a power of two below it.
    pub fn max_batch(mut self, images: usize) -> Self {
        self.max_batch = Some(images);
        self
    }

    /// Images that may wait; further requests are refused.
    pub fn max_queue(mut self, images: usize) -> Self {
        self.max_queue = Some(images);
        self
    }

    /// How long an image may wait for others to fill a batch while a stream is idle; 0 by default.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Whether to run every stream before the session is there, so that its first request does not
    /// wait for memory; not by default.
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// How the model is planned; its `batch` and `profile` are not used.
    pub fn options(mut self, options: ExecutorOptions) -> Self {
        self.options = options;
        self
    }

    /// Plans the model and starts the threads.
    ///
    /// # Errors
    /// A setting out of range; a model that cannot be planned so, or has no input; not enough memory
    /// or threads.
    pub fn build(self) -> Result<Session> {
        let graph = self.model.graph();
        if graph.inputs.is_empty() {
            return Err(Error::unsupported("a session needs a network with inputs"));
        }
        let (streams, runtimes) = self.start_runtimes()?;
        let runtime = runtimes[0].clone();
        let batch_sizes = self.batch_sizes()?;
        let largest = batch_sizes[batch_sizes.len() - 1];
        let default_queue = DEFAULT_QUEUE.max(4 * streams * largest);
        let max_queue = in_range("max_queue", self.max_queue.unwrap_or(default_queue), 1 << 24)?;
        let plans = Plans::new(&runtime, &self.model, &self.options, &batch_sizes)?;
        let plans = Arc::new(plans);
        let mut runners = vec![];
        for runtime in runtimes {
            runners.push(Stream::new(runtime, &plans)?);
        }
        if self.warm_up {
            warm_up(&mut runners)?;
        }

        let plan = &plans.plans[0].1;
        let port = |(port, dims): (&Port, &Vec<usize>), takes_u8: bool| SessionPort {
            port: port.clone(),
            shape: shape_of(port, dims),
            takes_u8,
        };
        let inputs = graph.inputs.iter().zip(&plan.input_dims).zip(&plans.values);
        let outputs = graph.outputs.iter().zip(&plan.output_dims);
        let mut session = Session {
            inputs: inputs.map(|(input, values)| port(input, !values.is_empty())).collect(),
            outputs: outputs.map(|output| port(output, false)).collect(),
            shared: Arc::new(Shared::new(batch_sizes.clone(), max_queue, self.max_delay)),
            threads: vec![],
            process: Process::this(),
            report: SessionReport {
                hint: self.hint,
                streams,
                runtime: runtime.report().clone(),
                batch_sizes,
                max_queue,
                max_delay: self.max_delay,
                memory_bytes: runners.iter().map(Stream::memory_bytes).sum(),
            },
            model: self.model,
            plans,
        };
        // If one cannot be started, dropping the session ends those that were.
        for (i, mut runner) in runners.into_iter().enumerate() {
            let shared = Arc::clone(&session.shared);
            let serve = move || shared.serve(&mut runner);
            session.threads.push(start(format!("skipstone-s{i}"), serve)?);
        }
        let shared = Arc::clone(&session.shared);
        session.threads.push(start("skipstone-clock".to_owned(), move || shared.keep_time())?);
        Ok(session)
    }

    /// The number of streams, and a runtime for each.
    fn start_runtimes(&self) -> Result<(usize, Vec<Runtime>)> {
        if let Some(runtime) = &self.runtime {
            if self.threads.is_some() {
                return Err(Error::invalid("both threads and a runtime are given"));
            }
            let streams = in_range("streams", self.streams.unwrap_or(1), MAX_STREAMS)?;
            return Ok((streams, vec![runtime.clone(); streams]));
        }
        let (threads, _) = choose_threads(self.threads)?;
        let streams = self.streams.unwrap_or(match self.hint {
            Hint::Latency => 1,
            Hint::Throughput => threads,
        });
        let streams = in_range("streams", streams, MAX_STREAMS)?;
        let each = (threads / streams).clamp(1, MAX_THREADS);
        let start = |_| self.runtime_settings.clone().threads(each).build();
        Ok((streams, (0..streams).map(start).collect::<Result<_>>()?))
    }

    fn batch_sizes(&self) -> Result<Vec<usize>> {
        let graph = self.model.graph();
        let mut ports = graph.inputs.iter().chain(&graph.outputs);
        let has_batch = ports.all(|port| port.axes.0.contains(&Axis::N));
        let max_batch = self.max_batch.unwrap_or(match self.hint {
            Hint::Throughput if has_batch => THROUGHPUT_BATCH,
            _ => 1,
        });
        let max_batch = in_range("max_batch", max_batch, MAX_BATCH)?;
        let powers = (0..).map(|power| 1 << power).take_while(|size| *size < max_batch);
        Ok(powers.chain([max_batch]).collect())
    }
}

fn in_range(what: &str, value: usize, max: usize) -> Result<usize> {
    if !(1..=max).contains(&value) {
        return Err(Error::invalid(format!("{what} is {value}, expected 1..={max}")));
    }
    Ok(value)
}

/// The shape behind a port's dimensions; axes that it does not have are 1.
fn shape_of(port: &Port, dims: &[usize]) -> Shape {
    let extent = |axis| port.axes.0.iter().position(|a| *a == axis).map_or(1, |i| dims[i]);
    Shape::new(extent(Axis::C), extent(Axis::H), extent(Axis::W))
}

fn warm_up(streams: &mut [Stream]) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            streams.iter_mut().map(|stream| scope.spawn(|| stream.warm_up())).collect();
        threads.into_iter().try_for_each(|thread| {
            let panicked =
                |_| Err(Error::new(ErrorKind::Internal, "a stream's first run panicked"));
            thread.join().unwrap_or_else(panicked)
        })
    })
}

fn start(name: String, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run).map_err(|e| {
        Error::new(ErrorKind::Internal, format!("cannot start a thread: {e}")).caused_by(e)
    })
}
