//! Sessions: a model that serves many callers at once.
//!
//! A [`Session`] owns streams, each a thread with a team of its own and memory for one batch, and one
//! bounded queue. Callers queue requests of any number of images; streams take images in order, as
//! many at a time as pay, whosever they are. A request's results are those of a run by itself, to the
//! bit. What waits past its deadline is never run; what finds no room is refused at once.
//!
//! ```no_run
//! use skipstone::{Hint, Model, Session, TensorView};
//!
//! let model = Model::open("resnet50.skip")?;
//! let session = Session::builder(&model).hint(Hint::Throughput).build()?;
//! let (image, mut logits) = (vec![0.0; 3 * 224 * 224], vec![0.0; 1000]);
//! session.run(&[TensorView::f32(&image)], &mut [&mut logits], None)?;
//! # Ok::<(), skipstone::Error>(())
//! ```

mod builder;
mod job;
#[cfg(all(test, loom))]
mod models;
mod queue;
mod runner;
mod stats;
mod streams;
mod tensor;
mod ticket;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use builder::{Hint, SessionBuilder, SessionReport};
pub use stats::Stats;
pub use tensor::{Elements, ImageOrder, Tensor, TensorView};
pub use ticket::Ticket;

use crate::error::{Error, Result};
use crate::graph::{Port, Shape};
use crate::model::Model;
use crate::plan::PlanSummary;
use crate::threads::Process;
use job::{Destination, Done, Job, Source};
use runner::Plans;
use streams::{Shared, Ticketed};
use ticket::Slot;

/// A model with streams, a queue and a batcher. `Send + Sync`; shared by reference or in an `Arc`.
///
/// Dropping it finishes the requests it has accepted.
pub struct Session {
    model: Model,
    plans: Arc<Plans>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    process: Process,
    report: SessionReport,
    inputs: Vec<SessionPort>,
    outputs: Vec<SessionPort>,
}

/// One input or output of a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SessionPort {
    /// As the model has it; `port.shape` is the model's default.
    pub port: Port,
    /// Shape of one image in this session.
    pub shape: Shape,
    /// Whether it may be fed with bytes, because the model's recipe says what they mean.
    pub takes_u8: bool,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// From the call to the first run with an image of the request.
    pub queued: Duration,
    /// From then to the end of the last.
    pub computed: Duration,
    /// Images in the largest of these runs, other requests' included.
    pub batch: usize,
}

/// A request's results.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Response {
    /// Per output, all images, dense, in the network's own axes.
    pub outputs: Vec<Vec<f32>>,
    /// Where the time went.
    pub timing: Timing,
}

/// A request's memory: valid until it has ended.
struct Request {
    images: usize,
    sources: Vec<Source>,
}

impl Session {
    /// Settings for a session of `model`.
    pub fn builder(model: &Model) -> SessionBuilder {
        SessionBuilder::new(model)
    }

    /// Runs all images of `inputs`, and waits for them. `outputs` get the results, dense, in the
    /// network's own axes.
    ///
    /// # Errors
    /// A wrong number of inputs, outputs or elements; bytes where the model has no recipe for them.
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) at once,
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) at the deadline if not all images have begun
    /// to run by then, [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Self::close`],
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if the run panicked: other requests, and
    /// the session, are not affected. After an error outputs are undefined.
    pub fn run(
        &self,
        inputs: &[TensorView<'_>],
        outputs: &mut [&mut [f32]],
        deadline: Option<Instant>,
    ) -> Result<Timing> {
        let request = self.request(inputs)?;
        self.check_outputs(request.images, outputs.iter().map(|o| o.len()))?;
        let outputs = outputs.iter_mut().map(|o| o.as_mut_ptr()).collect();
        let slot = Arc::new(Slot::default());
        let done = {
            let slot = Arc::clone(&slot);
            move |result: Result<Timing>| {
                slot.fill(result.map(|timing| Response { outputs: vec![], timing }));
            }
        };
        // SAFETY: inputs and outputs are borrowed until this function returns, and it waits for
        // `done`, unless the request was refused.
        unsafe { self.enqueue(request, outputs, deadline, Box::new(done)) }?;
        slot.wait().map(|response| response.timing)
    }

    /// Queues all images of `inputs`; the ticket gives the response.
    ///
    /// # Errors
    /// As [`Self::run`]; those that come later are the ticket's.
    pub fn submit(&self, inputs: Vec<Tensor>, deadline: Option<Instant>) -> Result<Ticket> {
        let slot = Arc::new(Slot::default());
        let filled = Arc::clone(&slot);
        let job = self.queue(inputs, deadline, move |response| filled.fill(response))?;
        Ok(Ticket::new(slot, Arc::clone(&self.shared), job))
    }

    /// Queues all images of `inputs`; `done` gets the response, on one of the session's threads:
    /// it must not block them, nor drop the session's last owner.
    ///
    /// # Errors
    /// As [`Self::run`]; then `done` is not called.
    pub fn submit_with(
        &self,
        inputs: Vec<Tensor>,
        deadline: Option<Instant>,
        done: impl FnOnce(Result<Response>) + Send + 'static,
    ) -> Result<()> {
        self.queue(inputs, deadline, done).map(drop)
    }

    fn queue(
        &self,
        inputs: Vec<Tensor>,
        deadline: Option<Instant>,
        done: impl FnOnce(Result<Response>) + Send + 'static,
    ) -> Result<Ticketed> {
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        let request = self.request(&views)?;
        let output = |port: &SessionPort| vec![0.0f32; request.images * port.shape.len()];
        let mut outputs: Vec<Vec<f32>> = self.outputs.iter().map(output).collect();
        let pointers = outputs.iter_mut().map(|o| o.as_mut_ptr()).collect();
        let done = move |result: Result<Timing>| {
            drop(inputs);
            done(result.map(|timing| Response { outputs, timing }));
        };
        // SAFETY: `done` owns the inputs and outputs, whose elements do not move with it, and
        // touches them only when it is called.
        unsafe { self.enqueue(request, pointers, deadline, Box::new(done)) }
    }

    /// As [`Self::submit_with`], on memory of the caller: nothing is copied.
    ///
    /// # Errors
    /// As [`Self::run`]; then `done` is not called, and the memory not touched.
    ///
    /// # Safety
    /// Until `done` is called, `inputs` stay valid and unchanged, and `outputs[i]` is valid for
    /// writes of the length it says and is accessed by nobody else.
    pub unsafe fn submit_borrowed(
        &self,
        inputs: &[TensorView<'_>],
        outputs: &[(*mut f32, usize)],
        deadline: Option<Instant>,
        done: impl FnOnce(Result<Timing>) + Send + 'static,
    ) -> Result<()> {
        let request = self.request(inputs)?;
        self.check_outputs(request.images, outputs.iter().map(|(_, len)| *len))?;
        let outputs = outputs.iter().map(|(elements, _)| *elements).collect();
        // SAFETY: the caller's promise is the same.
        unsafe { self.enqueue(request, outputs, deadline, Box::new(done)) }.map(drop)
    }

    /// Checks inputs, and tells how many images they are.
    fn request(&self, inputs: &[TensorView<'_>]) -> Result<Request> {
        self.process.check()?;
        if inputs.len() != self.inputs.len() {
            return Err(Error::invalid(format!(
                "{} inputs given, the network has {}",
                inputs.len(),
                self.inputs.len()
            )));
        }
        let mut images = None;
        let mut sources = vec![];
        for (input, port) in inputs.iter().zip(&self.inputs) {
            let (source, n) = input.source(port)?;
            let expected = *images.get_or_insert(n);
            if n != expected {
                return Err(Error::shape(format!(
                    "input '{}' has {n} images, the first one {expected}",
                    port.port.name
                )));
            }
            sources.push(source);
        }
        Ok(Request { images: images.unwrap_or_default(), sources })
    }

    fn check_outputs(
        &self,
        images: usize,
        lens: impl ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        let nb_outputs = lens.len();
        if nb_outputs != self.outputs.len() {
            return Err(Error::invalid(format!(
                "{nb_outputs} outputs given, the network has {}",
                self.outputs.len()
            )));
        }
        for (len, port) in lens.zip(&self.outputs) {
            let expected = images * port.shape.len();
            if len != expected {
                return Err(Error::shape(format!(
                    "output '{}' has {len} elements, expected {expected} for {images} images of {}",
                    port.port.name, port.shape
                )));
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Job::new`], for the lengths that were checked.
    unsafe fn enqueue(
        &self,
        request: Request,
        outputs: Vec<*mut f32>,
        deadline: Option<Instant>,
        done: Done,
    ) -> Result<Ticketed> {
        let destination = |(elements, port): (*mut f32, &SessionPort)| Destination {
            elements,
            image_len: port.shape.len(),
        };
        let destinations = outputs.into_iter().zip(&self.outputs).map(destination).collect();
        let Request { images, sources } = request;
        // SAFETY: the caller's promise is the same.
        let job = unsafe { Job::new(sources, destinations, images, Instant::now(), done) };
        self.shared.submit(job, images, deadline)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Inputs, and the shape of one image of each.
    pub fn inputs(&self) -> &[SessionPort] {
        &self.inputs
    }

    /// Outputs, and the shape of one image of each.
    pub fn outputs(&self) -> &[SessionPort] {
        &self.outputs
    }

    /// What was chosen, and why.
    pub fn report(&self) -> &SessionReport {
        &self.report
    }

    /// What a batch of one runs: step by step.
    pub fn plan(&self) -> &PlanSummary {
        &self.plans.plans[0].1.summary
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Refuses new requests from now on; those that were accepted are finished.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until all accepted requests have ended, or until `deadline`; tells whether they have.
    /// After [`Self::close`], for good.
    pub fn drain(&self, deadline: Option<Instant>) -> bool {
        self.process.check().is_err() || self.shared.drain(deadline)
    }

    /// Ends all requests that are still queued, with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn withdraw_queued(&self) {
        self.shared.withdraw();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.process.check().is_err() {
            // Its threads are not here, and its locks may be held by them.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.close();
        let this = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != this) {
            // Streams catch the panics of what they run.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, report) = (&self.model, &self.report);
        f.debug_struct("Session").field("model", model).field("report", report).finish()
    }
}
