//! Counters of a session.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// What a session has done since it began; all counters only grow, but for the images that are
/// queued or running now.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests that were queued.
    pub accepted: u64,
    /// Requests that were refused: the queue was full, or the session closed.
    pub rejected: u64,
    /// Requests whose deadline passed before all their images had begun to run.
    pub expired: u64,
    /// Requests that were withdrawn while they were queued.
    pub cancelled: u64,
    /// Batches that ran.
    pub executions: u64,
    /// Images in them.
    pub images: u64,
    /// Batches that failed.
    pub failed_executions: u64,
    /// Of these, by a panic.
    pub panics: u64,
    /// Time spent in runs, all streams together.
    pub computed: Duration,
    /// Sizes of batches, ascending, and how many batches of each size ran.
    pub batches: Vec<(usize, u64)>,
    /// Images that wait.
    pub queued_images: usize,
    /// Images in batches that run.
    pub running_images: usize,
    /// Most images that may wait.
    pub queue_capacity: usize,
}

impl Stats {
    /// A batch has run.
    pub(super) fn ran(&mut self, images: usize, computed: Duration, error: Option<&Error>) {
        self.executions += 1;
        self.images += images as u64;
        self.computed += computed;
        self.failed_executions += u64::from(error.is_some());
        self.panics += u64::from(error.is_some_and(|e| e.kind() == ErrorKind::Internal));
        if let Some((_, count)) = self.batches.iter_mut().find(|(size, _)| *size == images) {
            *count += 1;
        }
    }
}
