//! What has happened: per model for the statistics extension, and for Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde::Serialize;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Ok,
    ClientError,
    Rejected,
    Timeout,
    Error,
    /// The client went away before its answer.
    Cancelled,
}

impl Outcome {
    pub(crate) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Self::Rejected,
            StatusCode::GATEWAY_TIMEOUT => Self::Timeout,
            status if status.is_success() => Self::Ok,
            status if status.is_client_error() => Self::ClientError,
            _ => Self::Error,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where the time of one answered request went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stages {
    /// Body to input tensors: parsing, decoding and preparing images.
    pub(crate) decode: Duration,
    /// Waiting for a stream.
    pub(crate) queue: Duration,
    /// Running, whole batches counted.
    pub(crate) compute: Duration,
    /// Output tensors to body.
    pub(crate) encode: Duration,
    /// From the request's head to its answer.
    pub(crate) total: Duration,
}

/// A number of events and the time they took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spent {
    count: u64,
    ns: u64,
}

impl Spent {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns += time.as_nanos() as u64;
    }
}

/// How long something takes lately: a moving average, which one slow time raises by an eighth at most.
#[derive(Debug, Default)]
pub(crate) struct Lately(AtomicU64);

impl Lately {
    /// 0 if it never happened.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn took(&self, time: Duration) {
        let (time, before) = (time.as_nanos() as u64, self.0.load(Ordering::Relaxed));
        // Of two threads at once one may be lost: the next is as good.
        let bounded = time.min(before.saturating_mul(2));
        let now = if before == 0 { time } else { before - before / 8 + bounded / 8 };
        self.0.store(now, Ordering::Relaxed);
    }
}

/// Triton's statistics of a model; they outlive reloads of it.
#[derive(Default)]
pub(crate) struct ModelStats(Mutex<Totals>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) last_inference_ms: u64,
    pub(crate) inference_count: u64,
    pub(crate) success: Spent,
    pub(crate) fail: Spent,
    pub(crate) queue: Spent,
    pub(crate) compute_input: Spent,
    pub(crate) compute_infer: Spent,
    pub(crate) compute_output: Spent,
    /// By the largest batch that an image of the request ran in.
    pub(crate) batches: BTreeMap<usize, [Spent; 3]>,
}

impl ModelStats {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Totals {
        self.totals().clone()
    }

    pub(crate) fn succeeded(&self, images: usize, batch: usize, stages: &Stages) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut totals = self.totals();
        totals.last_inference_ms = now.as_millis() as u64;
        totals.inference_count += images as u64;
        totals.success.add(stages.total);
        totals.queue.add(stages.queue);
        totals.compute_input.add(stages.decode);
        totals.compute_infer.add(stages.compute);
        totals.compute_output.add(stages.encode);
        let batch = totals.batches.entry(batch).or_default();
        for (spent, time) in batch.iter_mut().zip([stages.decode, stages.compute, stages.encode]) {
            spent.add(time);
        }
    }

    pub(crate) fn failed(&self, time: Duration) {
        self.totals().fail.add(time);
    }
}

/// Statistics by model name, kept across reloads.
#[derive(Default)]
pub(crate) struct AllStats(Mutex<BTreeMap<String, Arc<ModelStats>>>);

impl AllStats {
    pub(crate) fn of(&self, name: &str) -> Arc<ModelStats> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(name.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_time_is_soon_forgotten() {
        let (ms, lately) = (Duration::from_millis, Lately::default());
        lately.took(ms(80));
        lately.took(ms(60_000));
        assert_eq!(lately.time(), ms(90));
        lately.took(ms(10));
        assert_eq!(lately.time(), ms(80));
    }
}
