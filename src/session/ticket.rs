//! The handle of a request in its session: wait for it, await it, or drop it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Response;
use super::streams::{Shared, Ticketed};
use crate::error::Result;
use crate::sync::{Condvar, Mutex};

/// A queued request. [`Ticket::wait`] blocks, `.await` does not, whatever the async runtime;
/// dropping it withdraws what is still queued.
#[must_use = "dropping a ticket withdraws the request"]
pub struct Ticket {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    job: Ticketed,
    /// Whether the response has been taken.
    taken: bool,
}

#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    response: Option<Result<Response>>,
    waker: Option<Waker>,
}

impl Slot {
    pub(super) fn fill(&self, response: Result<Response>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.response = Some(response);
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for the response.
    pub(super) fn wait(&self) -> Result<Response> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(response) = state.response.take() {
                return response;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Ticket {
    pub(super) fn new(slot: Arc<Slot>, shared: Arc<Shared>, job: Ticketed) -> Self {
        Self { slot, shared, job, taken: false }
    }

    /// Waits for the response.
    ///
    /// # Errors
    /// What the request ended with.
    pub fn wait(mut self) -> Result<Response> {
        self.taken = true;
        self.slot.wait()
    }
}

impl Future for Ticket {
    type Output = Result<Response>;

    /// # Panics
    /// If it is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.taken, "a ticket was polled after its response");
        let mut state = self.slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(response) = state.response.take() {
            drop(state);
            self.taken = true;
            return Poll::Ready(response);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.cancel(&self.job);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}
