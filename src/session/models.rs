//! The batcher's protocol under the model checker: no wake-up is lost, and every request ends once.
//!
//! Timed waits do not time out here, so whatever ends a wait is a notification.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib --no-default-features --target-dir target/loom models
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use loom::thread::{self, JoinHandle};

use super::job::Job;
use super::queue::Share;
use super::streams::{Runner, Shared, Ticketed};
use super::ticket::Slot;
use super::{Response, Timing};
use crate::error::{ErrorKind, Result};

/// A session without a model: streams that only count.
struct Stage {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    ran: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

/// Counts images.
struct Count(Arc<AtomicUsize>);

impl Runner for Count {
    fn run(&mut self, batch: &[Share<Ticketed>]) -> Result<()> {
        let images: usize = batch.iter().map(|share| share.images.len()).sum();
        self.0.fetch_add(images, Ordering::Relaxed);
        Ok(())
    }
}

/// A request, and where it ends.
struct Request {
    job: Ticketed,
    slot: Arc<Slot>,
}

impl Request {
    fn wait(&self) -> Result<()> {
        self.slot.wait().map(drop)
    }
}

impl Stage {
    fn new(streams: usize, sizes: &[usize], has_clock: bool) -> Self {
        let shared = Arc::new(Shared::new(sizes.to_vec(), 9, Duration::ZERO));
        let (ran, ended) = (Arc::default(), Arc::default());
        let mut threads = vec![];
        for _ in 0..streams {
            let (shared, mut runner) = (Arc::clone(&shared), Count(Arc::clone(&ran)));
            threads.push(thread::spawn(move || shared.serve(&mut runner)));
        }
        if has_clock {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || shared.keep_time()));
        }
        Self { shared, threads, ran, ended }
    }

    /// Queues a request of one image, which may have expired.
    fn submit(&self, has_expired: bool) -> Request {
        let slot = Arc::new(Slot::default());
        let (filled, ended, now) = (Arc::clone(&slot), Arc::clone(&self.ended), Instant::now());
        let done = Box::new(move |result: Result<Timing>| {
            ended.fetch_add(1, Ordering::Relaxed);
            filled.fill(result.map(|timing| Response { outputs: vec![], timing }));
        });
        // SAFETY: there is no memory behind this job, and its runner touches none.
        let job = unsafe { Job::new(vec![], vec![], 1, now, done) };
        let deadline = has_expired.then_some(now);
        let job = self.shared.submit(job, 1, deadline).expect("there is room");
        Request { job, slot }
    }

    /// Closes the session; `images` have run and `requests` ended by then.
    fn end(self, images: usize, requests: usize) {
        self.shared.close();
        self.threads.into_iter().for_each(|t| t.join().expect("no thread panics"));
        assert_eq!(self.ran.load(Ordering::Relaxed), images, "images that ran");
        assert_eq!(self.ended.load(Ordering::Relaxed), requests, "requests that ended");
    }
}

/// Runs `body` in every way the memory model allows, with at most 3 involuntary switches.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

#[test]
fn each_request_wakes_a_stream() {
    model(|| {
        let stage = Stage::new(1, &[1], false);
        for _ in 0..2 {
            stage.submit(false).wait().expect("runs");
        }
        stage.end(2, 2);
    });
}

#[test]
fn two_streams_share_what_waits() {
    model(|| {
        let stage = Stage::new(2, &[1], false);
        let requests = [stage.submit(false), stage.submit(false)];
        requests.iter().for_each(|request| request.wait().expect("runs"));
        stage.end(2, 2);
    });
}

#[test]
fn accepted_requests_are_finished_by_closing() {
    model(|| {
        let stage = Stage::new(1, &[1, 2], true);
        let requests = [stage.submit(false), stage.submit(false)];
        stage.end(2, 2);
        requests.iter().for_each(|request| request.wait().expect("ran"));
    });
}

#[test]
fn drained_means_ended() {
    model(|| {
        let stage = Stage::new(1, &[1], false);
        let _request = stage.submit(false);
        assert!(stage.shared.drain(None));
        assert_eq!(stage.ended.load(Ordering::Relaxed), 1);
        stage.end(1, 1);
    });
}

#[test]
fn a_withdrawn_request_runs_or_not_and_ends_once() {
    model(|| {
        let stage = Stage::new(1, &[1], false);
        let request = stage.submit(false);
        stage.shared.cancel(&request.job);
        let images = match request.wait() {
            Ok(()) => 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed);
                0
            }
        };
        stage.end(images, 1);
    });
}

#[test]
fn the_clock_ends_what_no_stream_takes() {
    model(|| {
        let stage = Stage::new(0, &[1], true);
        let error = stage.submit(true).wait().expect_err("has expired");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        stage.end(0, 1);
    });
}

#[test]
fn an_expired_request_is_ended_once_by_whoever_sees_it() {
    model(|| {
        let stage = Stage::new(1, &[1], true);
        let requests = [stage.submit(true), stage.submit(false)];
        assert_eq!(requests[0].wait().expect_err("has expired").kind(), ErrorKind::Timeout);
        requests[1].wait().expect("runs");
        stage.end(1, 2);
    });
}
