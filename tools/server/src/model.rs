//! A model that is being served: its session, and how requests become its inputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::StatusCode;
use bytes::Bytes;
use skipstone::classes::Scores;
use skipstone::format::TestVector;
use skipstone::graph::{Axis, AxisOrder, Shape};
use skipstone::image::{Image, decode, stored_size};
use skipstone::plan::Numerics;
use skipstone::session::{ImageOrder, SessionPort, Tensor};
use skipstone::{ErrorKind, ExecutorOptions, Hint, Model, Recipe, Session};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};
use crate::limits::Limits;
use crate::log::decoding;
use crate::pace;
use crate::protocol::Datatype;
use crate::protocol::request::Input;
use crate::stats::{Lately, ModelStats};

/// Largest difference to the self-test vector, in parts of its largest value.
const SELF_TEST_TOLERANCE: f32 = 2e-4;
/// Images that may wait per image that can run, unless the user says otherwise.
const QUEUED_PER_RUNNING: usize = 4;

/// How models run.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// What streams and threads are chosen for.
    pub hint: Hint,
    /// Batches that may run at the same time; by the hint, if absent.
    pub streams: Option<usize>,
    /// Threads of all streams together; by CPUs, if absent.
    pub threads: Option<usize>,
    /// Most images in a batch; by the hint, if absent.
    pub max_batch: Option<usize>,
    /// Images that may wait; four times what can run, if absent.
    pub max_queue: Option<usize>,
    /// How long an image waits for others to fill a batch.
    pub max_delay: Duration,
    /// Which rounding errors may be traded for time.
    pub numerics: Numerics,
    /// Whether weights are read from the file as they are used, instead of a copy.
    pub mmap: bool,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A packed file.
    File(PathBuf),
    /// A packed file in the program.
    Builtin(&'static [u8]),
}

/// An opened, planned, tested and warmed model.
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) session: Session,
    pub(crate) scores: Scores,
    pub(crate) stats: Arc<ModelStats>,
    /// A run, whatever its batch.
    pub(crate) run: Lately,
    /// A run's share of one image.
    pub(crate) image: Lately,
    /// Images that wait or run; requests that find none left are refused.
    places: Arc<Semaphore>,
    pub(crate) capacity: usize,
}

/// A place for images, kept until their result is written.
pub(crate) type Place = OwnedSemaphorePermit;

/// Images prepared for the session, one tensor per input.
pub(crate) struct Prepared {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) images: usize,
}

impl Served {
    /// Opens and verifies a model, plans it, holds it against its self-test, and runs it once.
    pub(crate) fn load(
        name: &str,
        version: &str,
        source: &Source,
        execution: &Execution,
        stats: &Arc<ModelStats>,
    ) -> anyhow::Result<Self> {
        let model = open(source, execution.mmap)?;
        let session =
            start(&model, execution).with_context(|| format!("model '{name}' cannot be served"))?;
        self_test(&session)?;
        let report = session.report();
        let running = report.streams * report.batch_sizes.last().copied().unwrap_or(1);
        let queued = execution.max_queue.unwrap_or(QUEUED_PER_RUNNING * running);
        let capacity = queued + running;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            scores: Scores::of(model.graph()),
            stats: Arc::clone(stats),
            run: Lately::default(),
            image: Lately::default(),
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            session,
        })
    }

    pub(crate) fn model(&self) -> &Model {
        self.session.model()
    }

    pub(crate) fn hash(&self) -> String {
        self.model().content_hash().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Images that wait or run.
    pub(crate) fn busy_places(&self) -> usize {
        self.capacity - self.places.available_permits()
    }

    /// Reserves places for `images` more images.
    ///
    /// # Errors
    /// 503 if there are none, 413 if there could never be enough.
    pub(crate) fn reserve(&self, images: usize) -> ApiResult<Place> {
        if images > self.capacity {
            let message = format!("{images} images, at most {} per request", self.capacity);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let places = Arc::clone(&self.places);
        places.try_acquire_many_owned(images as u32).map_err(|_| self.overloaded("is full"))
    }

    /// Refuses, before work is spent on it, what would wait until its deadline. An idle server refuses
    /// nothing, so that a slow run is soon forgotten.
    ///
    /// # Errors
    /// 503.
    pub(crate) fn expect_in_time(&self, deadline: Instant) -> ApiResult<()> {
        let wait = self.time_of(self.busy_places());
        let left = deadline.saturating_duration_since(Instant::now());
        if ends_in_time(wait, self.run.time(), left) {
            return Ok(());
        }
        Err(self.overloaded("is longer than the deadline"))
    }

    fn overloaded(&self, queue: &str) -> ApiError {
        // Of the places taken, images that are still being received or decoded keep no stream busy.
        pace::refused(|| self.time_of(self.session.stats().queued_images));
        ApiError::overloaded(format!("the queue of model '{}' {queue}", self.name))
    }

    /// How long so many images keep the streams busy.
    fn time_of(&self, images: usize) -> Duration {
        self.image.time() * images as u32 / self.session.report().streams as u32
    }

    /// The one input, for requests that are images.
    fn image_input(&self) -> ApiResult<(&SessionPort, &Recipe)> {
        let recipe = self.model().recipe();
        match (self.session.inputs(), recipe) {
            ([port], Some(recipe)) if port.takes_u8 => Ok((port, recipe)),
            _ => Err(ApiError::bad_request(format!(
                "model '{}' takes no images: it has no recipe to prepare them by",
                self.name
            ))),
        }
    }

    /// Whether requests may be images.
    pub(crate) fn takes_images(&self) -> bool {
        self.image_input().is_ok()
    }

    /// Images per request by the shapes alone; all that needs no data is checked.
    pub(crate) fn count_images(&self, inputs: &[Input]) -> ApiResult<usize> {
        let ports = self.session.inputs();
        if inputs.len() != ports.len() {
            let names: Vec<_> = ports.iter().map(|p| p.port.name.as_str()).collect();
            return Err(ApiError::bad_request(format!(
                "{} inputs, expected {}: {}",
                inputs.len(),
                ports.len(),
                names.join(", ")
            )));
        }
        let mut images = None;
        for port in ports {
            let input = find(inputs, &port.port.name)?;
            let n = batch_of(input, port).map_err(|e| e.about(&input.name))?;
            if *images.get_or_insert(n) != n {
                let message = format!("{n} images, another input has {}", images.unwrap_or(0));
                return Err(ApiError::bad_request(message).about(&input.name));
            }
        }
        Ok(images.unwrap_or(0))
    }

    /// Makes the session's inputs of a request's; `images` is what [`Self::count_images`] said.
    pub(crate) fn prepare(
        &self,
        inputs: &[Input],
        images: usize,
        limits: &Limits,
    ) -> ApiResult<Prepared> {
        let tensor = |port: &SessionPort| {
            let input = find(inputs, &port.port.name)?;
            self.tensor(input, port, images, limits).map_err(|e| e.about(&input.name))
        };
        let inputs = self.session.inputs().iter().map(tensor).collect::<ApiResult<_>>()?;
        Ok(Prepared { inputs, images })
    }

    fn tensor(
        &self,
        input: &Input,
        port: &SessionPort,
        images: usize,
        limits: &Limits,
    ) -> ApiResult<Tensor> {
        let len = images * port.shape.len();
        match input.datatype {
            Datatype::Fp32 => Ok(Tensor::f32(input.floats(len)?, ImageOrder::Native)),
            Datatype::Uint8 => {
                let order = pixel_order(&input.shape, port)?.1;
                Ok(Tensor::u8(input.octets(len)?.into(), order))
            }
            Datatype::Bytes => {
                let files = input.strings(images)?;
                let mut pixels = Vec::with_capacity(len);
                for (i, file) in files.iter().enumerate() {
                    let image = self.prepare_image(file, limits);
                    pixels.extend_from_slice(
                        image.map_err(|e| e.about(format!("image {i}")))?.data(),
                    );
                }
                Ok(Tensor::u8(pixels, ImageOrder::Hwc))
            }
        }
    }

    /// Makes the session's input of one image file.
    pub(crate) fn prepare_file(&self, file: &Bytes, limits: &Limits) -> ApiResult<Prepared> {
        let image = self.prepare_image(file, limits)?;
        let inputs = vec![Tensor::u8(image.into_data(), ImageOrder::Hwc)];
        Ok(Prepared { inputs, images: 1 })
    }

    fn prepare_image(&self, file: &Bytes, limits: &Limits) -> ApiResult<Image> {
        let (port, recipe) = self.image_input()?;
        let refused = |e: skipstone::Error| ApiError::bad_request(e.to_string());
        let decoded = decoding(|| {
            check_size(file, limits)?;
            decode(file, &limits.image()).map_err(refused)
        });
        let image = recipe.prepare(&decoded?).map_err(refused)?;
        let Shape { h, w, .. } = port.shape;
        if (image.height(), image.width()) != (h, w) {
            return Err(ApiError::bad_request(format!(
                "the recipe makes {}x{} of this image, the network takes {h}x{w}",
                image.height(),
                image.width()
            )));
        }
        Ok(image)
    }
}

/// Whether what must wait behind images that take `wait` is worth a start when `left` is left of its time.
/// What waits for one run at most always is.
fn ends_in_time(wait: Duration, run: Duration, left: Duration) -> bool {
    wait <= run.max(left)
}

/// Refuses by the header what is no image or has too many pixels.
fn check_size(file: &[u8], limits: &Limits) -> ApiResult<()> {
    if skipstone::image::FileKind::of(file).is_none() {
        let message = "neither a JPEG nor a PNG file";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let [width, height] = stored_size(file).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let pixels = width.saturating_mul(height);
    if width.max(height) > limits.max_image_side || pixels > limits.max_image_pixels {
        let message = format!(
            "the image is {width}x{height}, over the limit of {} pixels per side or {} in all",
            limits.max_image_side, limits.max_image_pixels
        );
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(())
}

fn find<'a>(inputs: &'a [Input], name: &str) -> ApiResult<&'a Input> {
    let mut found = inputs.iter().filter(|input| input.name == name);
    match (found.next(), found.next()) {
        (Some(input), None) => Ok(input),
        (None, _) => Err(ApiError::bad_request(format!("input '{name}' is missing"))),
        _ => Err(ApiError::bad_request(format!("input '{name}' is given twice"))),
    }
}

/// Images in a tensor by its shape.
fn batch_of(input: &Input, port: &SessionPort) -> ApiResult<usize> {
    let images = match input.datatype {
        Datatype::Fp32 => {
            let (axes, shape) = (&port.port.axes, port.shape);
            batch_in(&input.shape, axes, shape).ok_or_else(|| {
                let expected = dims(axes, shape);
                ApiError::bad_request(format!("shape {:?}, expected {expected:?}", input.shape))
            })?
        }
        Datatype::Uint8 => pixel_order(&input.shape, port)?.0,
        Datatype::Bytes => match input.shape[..] {
            [n] | [n, 1] => n,
            _ => {
                let message = format!("shape {:?}, expected one image per element", input.shape);
                return Err(ApiError::bad_request(message));
            }
        },
    };
    if images == 0 { Err(ApiError::bad_request("no images")) } else { Ok(images) }
}

/// The images in a tensor of pixels, and the order of its axes.
fn pixel_order(dims: &[usize], port: &SessionPort) -> ApiResult<(usize, ImageOrder)> {
    if !port.takes_u8 {
        let message = "takes no UINT8: the model has no recipe that says what pixels mean";
        return Err(ApiError::bad_request(message));
    }
    let orders = [
        (port.port.axes.clone(), ImageOrder::Native),
        (AxisOrder::nhwc(), ImageOrder::Hwc),
        (AxisOrder::nchw(), ImageOrder::Chw),
    ];
    let found = orders
        .iter()
        .find_map(|(axes, order)| batch_in(dims, axes, port.shape).map(|images| (images, *order)));
    found.ok_or_else(|| {
        let message = format!("shape {dims:?}, expected images of {}", port.shape);
        ApiError::bad_request(message)
    })
}

/// The images in a tensor whose dimensions are these axes of `shape`.
fn batch_in(dims: &[usize], axes: &AxisOrder, shape: Shape) -> Option<usize> {
    let batch = axes.0.iter().position(|a| *a == Axis::N);
    let images = batch.map_or(Some(1), |at| dims.get(at).copied())?;
    (dims == axes.dims(images, shape)).then_some(images)
}

/// Dimensions as the protocol writes them; -1 is any number of images.
pub(crate) fn dims(axes: &AxisOrder, shape: Shape) -> Vec<i64> {
    let dims = axes.dims(0, shape).into_iter().zip(&axes.0);
    dims.map(|(n, axis)| if *axis == Axis::N { -1 } else { n as i64 }).collect()
}

fn open(source: &Source, mmap: bool) -> skipstone::Result<Model> {
    match source {
        Source::Builtin(bytes) => Model::from_bytes(bytes),
        Source::File(path) if mmap => map(path),
        Source::File(path) => Model::open(path),
    }
}

fn map(path: &Path) -> skipstone::Result<Model> {
    // SAFETY: this cannot be checked, it is a decision: `--mmap` is the operator's promise that models
    // are only ever replaced by a rename.
    let model = unsafe { Model::open_mmap(path) }?;
    model.verify()?;
    Ok(model)
}

fn start(model: &Model, execution: &Execution) -> skipstone::Result<Session> {
    let input_size = model.recipe().and_then(Recipe::output_size);
    let options =
        ExecutorOptions { input_size, numerics: execution.numerics, ..Default::default() };
    let mut builder = Session::builder(model)
        .hint(execution.hint)
        .max_delay(execution.max_delay)
        .warm_up(true)
        .options(options);
    if let Some(streams) = execution.streams {
        builder = builder.streams(streams);
    }
    if let Some(threads) = execution.threads {
        builder = builder.threads(threads);
    }
    if let Some(images) = execution.max_batch {
        builder = builder.max_batch(images);
    }
    if let Some(images) = execution.max_queue {
        builder = builder.max_queue(images);
    }
    builder.build()
}

/// Holds the session against the file's self-test, where it has one for this input size.
fn self_test(session: &Session) -> skipstone::Result<()> {
    let graph = session.model().graph();
    let Some(expected) = session.model().test_vector() else { return Ok(()) };
    if session.inputs().iter().any(|port| port.shape != port.port.shape) {
        return Ok(());
    }
    let inputs = TestVector::inputs(expected.seed, graph).into_iter();
    let inputs = inputs.map(|input| Tensor::f32(input, ImageOrder::Native)).collect();
    let found = session.submit(inputs, None)?.wait()?.outputs;
    for (found, expected) in found.iter().zip(&expected.outputs) {
        let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
        let agrees = |(f, e): (&f32, &f32)| (f - e).abs() <= SELF_TEST_TOLERANCE * largest;
        if !found.iter().zip(expected).all(agrees) {
            let message = "the self-test gives wrong results on this machine";
            return Err(skipstone::Error::new(ErrorKind::Mismatch, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_queues_are_refused_and_idle_servers_refuse_nothing() {
        let ms = Duration::from_millis;
        assert!(ends_in_time(ms(1900), ms(300), ms(2000)));
        assert!(!ends_in_time(ms(2100), ms(300), ms(2000)));
        assert!(ends_in_time(ms(5000), ms(5000), ms(2000)));
    }
}
