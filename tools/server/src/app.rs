//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Semaphore;

use crate::body::Budget;
use crate::error::{ApiError, ApiResult};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::Served;
use crate::repository::Repository;

/// The server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Models are being loaded.
    Loading,
    Serving,
    /// Told to stop: still serving, but not ready, and connections close after each answer.
    Draining,
}

/// State of the server.
pub(crate) struct App {
    pub(crate) limits: Limits,
    pub(crate) budget: Budget,
    pub(crate) repository: Arc<Repository>,
    pub(crate) metrics: Metrics,
    /// Requests that may be parsed, or whose images may be decoded, at a time: one per CPU.
    pub(crate) decoders: Arc<Semaphore>,
    phase: AtomicU8,
}

impl App {
    pub(crate) fn new(limits: Limits, repository: Repository) -> Self {
        let repository = Arc::new(repository);
        let mut metrics = Metrics::new();
        metrics.watch(&repository);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            budget: Budget::new(limits.max_bytes_in_flight),
            decoders: Arc::new(Semaphore::new(cpus)),
            phase: AtomicU8::new(Phase::Loading as u8),
            limits,
            repository,
            metrics,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Serving as u8
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Draining as u8
    }

    /// The model, in this version if one is named.
    pub(crate) fn model(&self, name: &str, version: Option<&str>) -> ApiResult<Arc<Served>> {
        let model = self.repository.get(name).ok_or_else(|| {
            if self.phase.load(Ordering::SeqCst) == Phase::Loading as u8 {
                return ApiError::overloaded("models are being loaded");
            }
            let models = self.repository.all();
            let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
            ApiError::not_found(format!("no model '{name}'; there are: {}", names.join(", ")))
        })?;
        match version {
            Some(version) if version != model.version => Err(ApiError::not_found(format!(
                "no version '{version}' of model '{name}'; it is '{}'",
                model.version
            ))),
            _ => Ok(model),
        }
    }
}
