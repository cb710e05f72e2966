//! One inference, from a request's bytes to its outputs, whatever the protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use skipstone::ErrorKind;
use skipstone::session::Response;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::model::{Place, Prepared, Served};
use crate::stats::{Outcome, Stages};

/// A request's record: counts its end, whichever it is.
pub(crate) struct Record<'a> {
    app: &'a App,
    model: &'a Served,
    pub(crate) started: Instant,
    counted: bool,
}

/// A result, and where its time went so far.
pub(crate) struct Inferred {
    pub(crate) outputs: Vec<Vec<f32>>,
    pub(crate) images: usize,
    pub(crate) batch: usize,
    pub(crate) stages: Stages,
    _places: Vec<Place>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(app: &'a App, model: &'a Served, started: Instant) -> Self {
        Self { app, model, started, counted: false }
    }

    /// The request has an answer, which took `encode` to write.
    pub(crate) fn succeeded(&mut self, result: &Inferred, encode: Duration) -> Stages {
        self.counted = true;
        let stages = Stages { encode, total: self.started.elapsed(), ..result.stages };
        self.model.stats.succeeded(result.images, result.batch, &stages);
        self.app.metrics.answered(&self.model.name, &stages);
        self.app.metrics.ended(&self.model.name, Outcome::Ok);
        stages
    }

    /// The request has none.
    pub(crate) fn failed(&mut self, error: &ApiError) {
        self.counted = true;
        self.model.stats.failed(self.started.elapsed());
        self.app.metrics.ended(&self.model.name, Outcome::of(error.status));
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.model.stats.failed(self.started.elapsed());
            self.app.metrics.ended(&self.model.name, Outcome::Cancelled);
        }
    }
}

/// When a request that asks for `timeout` is to be given up.
pub(crate) fn deadline(app: &App, started: Instant, timeout: Option<Duration>) -> Instant {
    started + timeout.unwrap_or(app.limits.default_deadline).min(app.limits.max_deadline)
}

/// Runs `work` on a thread that may be busy for long, when one is free.
///
/// # Errors
/// `work`'s, or 504 if the deadline passes first.
pub(crate) async fn off_thread<T: Send + 'static>(
    app: &App,
    deadline: Instant,
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let work = async {
        let turn = Arc::clone(&app.decoders).acquire_owned().await;
        let turn: OwnedSemaphorePermit =
            turn.map_err(|_| ApiError::internal("the decoders are closed"))?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // Nobody may be waiting any more.
            if Instant::now() > deadline { Err(ApiError::deadline()) } else { work() }
        });
        done.await.map_err(|_| ApiError::internal("decoding panicked"))?
    };
    tokio::time::timeout_at(deadline.into(), work)
        .await
        .unwrap_or_else(|_| Err(ApiError::deadline()))
}

/// Queues prepared images and waits for their outputs.
pub(crate) async fn infer(
    model: &Served,
    prepared: Prepared,
    places: Vec<Place>,
    deadline: Instant,
    decode: Duration,
) -> ApiResult<Inferred> {
    let Prepared { inputs, images } = prepared;
    let begin = start_by(deadline, Instant::now(), model.run.time());
    let ticket = model.session.submit(inputs, Some(begin)).map_err(refused)?;
    let response = tokio::time::timeout_at(deadline.into(), ticket).await;
    let Response { outputs, timing, .. } =
        response.map_err(|_| ApiError::deadline())?.map_err(refused)?;
    if images <= timing.batch {
        model.run.took(timing.computed);
        model.image.took(timing.computed / timing.batch.max(1) as u32);
    }
    let stages =
        Stages { decode, queue: timing.queued, compute: timing.computed, ..Stages::default() };
    Ok(Inferred { outputs, images, batch: timing.batch, stages, _places: places })
}

/// When a run must begin to end by the deadline. What begins later would be computed for nobody, and a
/// server under overload would do little else. Runs take as long as they did lately, but half of the
/// time is always left to wait: else one slow run could refuse all that follow.
fn start_by(deadline: Instant, now: Instant, run: Duration) -> Instant {
    deadline - run.min(deadline.saturating_duration_since(now) / 2)
}

fn refused(error: skipstone::Error) -> ApiError {
    match error.kind() {
        ErrorKind::QueueFull | ErrorKind::Closed => ApiError::overloaded(error.to_string()),
        ErrorKind::Timeout => ApiError::deadline(),
        ErrorKind::InvalidArgument | ErrorKind::Shape | ErrorKind::Unsupported => {
            ApiError::bad_request(error.to_string())
        }
        _ => ApiError::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_begin_in_time_to_end() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let run = Duration::from_millis(300);
        assert_eq!(start_by(after(2000), now, run), after(1700));
        assert_eq!(start_by(after(400), now, run), after(200));
        assert_eq!(start_by(now, after(5), run), now);
    }
}
