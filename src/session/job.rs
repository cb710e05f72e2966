//! One request on its way: where its images are, and what has become of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Timing;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::input::{Image, Pixels};

/// What is called when a request has ended.
pub(super) type Done = Box<dyn FnOnce(Result<Timing>) + Send>;

/// One input of all images of a request.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) elements: Elements,
    /// Elements of one image, and the distance of its channels, rows and columns.
    pub(super) image_len: usize,
    pub(super) strides: (usize, usize, usize),
}

/// Where a source's elements are.
#[derive(Clone, Copy)]
pub(super) enum Elements {
    F32(*const f32),
    U8(*const u8),
}

/// One output of all images of a request.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) elements: *mut f32,
    pub(super) image_len: usize,
}

/// A request.
///
/// The memory behind `sources` and `destinations` holds all its images, may be read and written from
/// any thread, and stays so until `Done` is called: what makes a job promises it, see [`Job::new`].
pub(super) struct Job {
    sources: Vec<Source>,
    destinations: Vec<Destination>,
    queued: Instant,
    progress: Mutex<Progress>,
}

// SAFETY: the pointers may be used from any thread, as `Job::new` was promised; streams access
// different images.
unsafe impl Send for Job {}
// SAFETY: as above; the rest is behind a lock.
unsafe impl Sync for Job {}

struct Progress {
    /// Images that have not ended.
    left: usize,
    started: Option<Instant>,
    largest_batch: usize,
    error: Option<Error>,
    done: Option<Done>,
}

impl Job {
    /// A request of `images` images, at least one.
    ///
    /// # Safety
    /// Until `done` is called, sources are valid for reads of all images' elements, and destinations
    /// for writes, from any thread, and nobody else accesses destinations or writes sources.
    pub(super) unsafe fn new(
        sources: Vec<Source>,
        destinations: Vec<Destination>,
        images: usize,
        queued: Instant,
        done: Done,
    ) -> Self {
        let (started, error, done) = (None, None, Some(done));
        let progress = Progress { left: images, started, largest_batch: 0, error, done };
        Self { sources, destinations, queued, progress: Mutex::new(progress) }
    }

    /// Image `i`, input by input. `values` are what bytes mean, per input and channel.
    ///
    /// # Safety
    /// The job has not ended while the images are used, and has an image `i`. Inputs of bytes have
    /// values for all channels.
    pub(super) unsafe fn images<'a>(
        &self,
        i: usize,
        values: &'a [Vec<[f32; 256]>],
    ) -> impl Iterator<Item = Image<'a>> {
        self.sources.iter().zip(values).map(move |(source, values)| {
            let (start, len) = (i * source.image_len, source.image_len);
            let pixels = match source.elements {
                Elements::F32(all) => {
                    // SAFETY: within the request's images, which are readable until it ends.
                    let pixels = unsafe { std::slice::from_raw_parts(all.add(start), len) };
                    Pixels::F32(pixels)
                }
                Elements::U8(all) => {
                    // SAFETY: as above.
                    let pixels = unsafe { std::slice::from_raw_parts(all.add(start), len) };
                    Pixels::U8 { pixels, values }
                }
            };
            Image { pixels, strides: source.strides }
        })
    }

    /// Output `o` of image `i`.
    ///
    /// # Safety
    /// The job has not ended while the slice is used, has an image `i` and an output `o`, and nobody
    /// else has this slice.
    #[allow(clippy::mut_from_ref, reason = "the memory is elsewhere; the caller excludes aliasing")]
    pub(super) unsafe fn output(&self, o: usize, i: usize) -> &mut [f32] {
        let Destination { elements, image_len } = self.destinations[o];
        // SAFETY: within the request's images, which are writable until it ends.
        unsafe { std::slice::from_raw_parts_mut(elements.add(i * image_len), image_len) }
    }

    /// Some images begin to be computed, in a batch of `batch` images.
    pub(super) fn start(&self, now: Instant, batch: usize) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.started.get_or_insert(now);
        progress.largest_batch = progress.largest_batch.max(batch);
    }

    /// `images` images have ended, with an error if there is one; nobody uses their memory any more.
    /// The last ones end the request.
    pub(super) fn end(&self, images: usize, error: Option<Error>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.left -= images;
        progress.error = progress.error.take().or(error);
        if progress.left > 0 {
            return;
        }
        let (done, error) = (progress.done.take(), progress.error.take());
        let (started, batch) = (progress.started, progress.largest_batch);
        drop(progress);
        let now = Instant::now();
        let timing = Timing {
            queued: started.unwrap_or(now).duration_since(self.queued),
            computed: started.map_or(Duration::ZERO, |started| now.duration_since(started)),
            batch,
        };
        if let Some(done) = done {
            done(error.map_or(Ok(timing), Err));
        }
    }
}

/// What a run's error is to each of the requests in it: errors cannot be cloned.
pub(super) fn share(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

pub(super) fn timed_out() -> Error {
    Error::new(ErrorKind::Timeout, "the deadline passed while the request was queued")
}

pub(super) fn withdrawn() -> Error {
    Error::new(ErrorKind::Closed, "the request was withdrawn")
}
