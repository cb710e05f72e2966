//! The threads of a session: streams, which run batches, and the clock, which ends what has waited
//! past its deadline while all streams are busy. All of them sleep when there is nothing to do.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::job::{Job, share, timed_out, withdrawn};
use super::queue::{Queue, Share};
use super::stats::Stats;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Runs batches, one at a time.
pub(super) trait Runner: Send {
    /// Runs a batch whose size is one of the session's.
    fn run(&mut self, batch: &[Share<Ticketed>]) -> Result<()>;
}

/// A job that is equal to itself alone.
#[derive(Clone)]
pub(super) struct Ticketed(pub(super) Arc<Job>);

impl PartialEq for Ticketed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a session's threads share with its users.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Streams wait here for images.
    work: Condvar,
    /// The clock waits here for deadlines.
    clock: Condvar,
    /// [`Shared::drain`] waits here.
    drained: Condvar,
    /// Sizes of batches, ascending, from 1 on.
    sizes: Vec<usize>,
}

struct State {
    queue: Queue<Ticketed>,
    /// Streams that wait for images.
    idle: usize,
    /// Images whose requests are being told that they have ended.
    ending: usize,
    /// When the clock wakes by itself.
    alarm: Option<Instant>,
    closed: bool,
    stats: Stats,
}

impl Shared {
    pub(super) fn new(sizes: Vec<usize>, capacity: usize, max_delay: Duration) -> Self {
        let stats = Stats {
            batches: sizes.iter().map(|size| (*size, 0)).collect(),
            queue_capacity: capacity,
            ..Stats::default()
        };
        let queue = Queue::new(capacity, max_delay);
        let state = State { queue, idle: 0, ending: 0, alarm: None, closed: false, stats };
        let (work, clock, drained) = Default::default();
        Self { state: Mutex::new(state), work, clock, drained, sizes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// A full queue or a closed session; the job has been dropped without being ended.
    pub(super) fn submit(
        &self,
        job: Job,
        images: usize,
        deadline: Option<Instant>,
    ) -> Result<Ticketed> {
        let job = Ticketed(Arc::new(job));
        let mut state = self.state();
        if state.closed {
            state.stats.rejected += 1;
            return Err(Error::new(ErrorKind::Closed, "the session is closed"));
        }
        if state.queue.push(job.clone(), images, deadline, Instant::now()).is_err() {
            state.stats.rejected += 1;
            let Stats { queue_capacity, .. } = state.stats;
            let queued = state.queue.images();
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!("the queue has {queued} images of at most {queue_capacity}"),
            ));
        }
        state.stats.accepted += 1;
        let earlier = deadline.is_some_and(|d| state.alarm.is_none_or(|alarm| d < alarm));
        drop(state);
        self.work.notify_one();
        if earlier {
            self.clock.notify_one();
        }
        Ok(job)
    }

    /// Removes what of a request is still queued; it ends with what already runs.
    pub(super) fn cancel(&self, job: &Ticketed) {
        let mut state = self.state();
        let Some(removed) = state.queue.cancel(job) else { return };
        state.stats.cancelled += 1;
        drop(self.end(state, vec![removed], || Some(withdrawn())));
    }

    /// Refuses new requests from now on.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
        self.clock.notify_all();
    }

    /// Ends everything that is queued.
    pub(super) fn withdraw(&self) {
        let mut state = self.state();
        let removed = state.queue.clear();
        state.stats.cancelled += removed.len() as u64;
        drop(self.end(state, removed, || Some(withdrawn())));
    }

    /// Waits until all accepted requests have ended, or until `deadline`; tells which.
    pub(super) fn drain(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state();
        while !state.is_drained() {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return false;
            }
            state = wait(&self.drained, state, deadline.map(|d| d - now));
        }
        true
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state();
        Stats { queued_images: state.queue.images(), ..state.stats.clone() }
    }

    /// A stream's life: one batch after another, until the session is closed and the queue empty.
    pub(super) fn serve(&self, runner: &mut dyn Runner) {
        while let Some(batch) = self.next_batch() {
            let images = batch.iter().map(|share| share.images.len()).sum();
            let start = Instant::now();
            batch.iter().for_each(|share| share.request.0.start(start, images));
            // What a run leaves half done, the next one writes again: arenas carry nothing over.
            let result = catch_unwind(AssertUnwindSafe(|| runner.run(&batch)));
            let result = result.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
            let computed = start.elapsed();

            let mut state = self.state();
            state.stats.running_images -= images;
            state.stats.ran(images, computed, result.as_ref().err());
            drop(self.end(state, batch, || result.as_ref().err().map(share)));
        }
    }

    fn next_batch(&self) -> Option<Vec<Share<Ticketed>>> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let expired = state.queue.expire(now);
            if !expired.is_empty() {
                state = self.end_expired(state, expired);
                continue;
            }
            let images = state.queue.images();
            let Some(ready) = state.queue.ready() else {
                if state.closed {
                    // The clock stays as long as anything is queued.
                    self.clock.notify_one();
                    return None;
                }
                state = self.wait_for_work(state, None);
                continue;
            };
            let largest = self.sizes.last().copied().unwrap_or(1);
            if images < largest && !state.closed && ready > now {
                state = self.wait_for_work(state, Some(ready - now));
                continue;
            }
            // Streams that have nothing to do take their share.
            let share = images.div_ceil(state.idle + 1);
            let size = self.sizes.iter().rev().find(|size| **size <= share).copied().unwrap_or(1);
            let batch = state.queue.take(size);
            state.stats.running_images += size;
            let more = state.queue.images() > 0;
            drop(state);
            if more {
                self.work.notify_one();
            }
            return Some(batch);
        }
    }

    fn wait_for_work<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.idle += 1;
        let mut state = wait(&self.work, state, timeout);
        state.idle -= 1;
        state
    }

    /// The clock's life.
    pub(super) fn keep_time(&self) {
        let mut state = self.state();
        while !(state.closed && state.queue.images() == 0) {
            let now = Instant::now();
            let expired = state.queue.expire(now);
            if !expired.is_empty() {
                state = self.end_expired(state, expired);
                continue;
            }
            state.alarm = state.queue.next_deadline();
            let timeout = state.alarm.map(|alarm| alarm - now);
            state = wait(&self.clock, state, timeout);
        }
    }

    fn end_expired<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        expired: Vec<Share<Ticketed>>,
    ) -> MutexGuard<'a, State> {
        state.stats.expired += expired.len() as u64;
        self.end(state, expired, || Some(timed_out()))
    }

    /// Ends shares of requests, without the lock: a completion is the user's code. Its panic does not
    /// end the thread.
    fn end<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        shares: Vec<Share<Ticketed>>,
        error: impl Fn() -> Option<Error>,
    ) -> MutexGuard<'a, State> {
        let images: usize = shares.iter().map(|share| share.images.len()).sum();
        state.ending += images;
        drop(state);
        for Share { request, images } in shares {
            let end = || request.0.end(images.len(), error());
            let _ = catch_unwind(AssertUnwindSafe(end));
        }
        let mut state = self.state();
        state.ending -= images;
        if state.is_drained() {
            self.drained.notify_all();
        }
        state
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.queue.images() + self.stats.running_images + self.ending == 0
    }
}

fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Option<Duration>,
) -> MutexGuard<'a, T> {
    match timeout {
        None => condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(timeout) => {
            condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("see its message above");
    Error::new(ErrorKind::Internal, format!("a stream panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::session::Timing;

    /// Says what it runs, and runs it when it is told how.
    struct Puppet {
        started: Sender<usize>,
        orders: Receiver<Order>,
    }

    enum Order {
        Succeed,
        Panic,
    }

    impl Runner for Puppet {
        fn run(&mut self, batch: &[Share<Ticketed>]) -> Result<()> {
            let images = batch.iter().map(|share| share.images.len()).sum();
            self.started.send(images).expect("the test listens");
            match self.orders.recv().expect("the test gives orders") {
                Order::Succeed => Ok(()),
                Order::Panic => panic!("on purpose"),
            }
        }
    }

    struct Stage {
        shared: Arc<Shared>,
        threads: Vec<JoinHandle<()>>,
        started: Receiver<usize>,
        orders: Vec<Sender<Order>>,
    }

    impl Stage {
        fn new(streams: usize, sizes: &[usize], capacity: usize, max_delay: Duration) -> Self {
            let shared = Arc::new(Shared::new(sizes.to_vec(), capacity, max_delay));
            let (mut threads, mut orders) = (vec![], vec![]);
            let (start, started) = channel();
            for _ in 0..streams {
                let (order, receiver) = channel();
                orders.push(order);
                let mut puppet = Puppet { started: start.clone(), orders: receiver };
                let shared = Arc::clone(&shared);
                threads.push(thread::spawn(move || shared.serve(&mut puppet)));
            }
            let clock = Arc::clone(&shared);
            threads.push(thread::spawn(move || clock.keep_time()));
            Self { shared, threads, started, orders }
        }

        /// Queues a request; what it ends with arrives later.
        fn submit(
            &self,
            images: usize,
            deadline: Option<Duration>,
        ) -> Result<(Ticketed, Receiver<Result<Timing>>)> {
            let (sender, receiver) = channel();
            let done: super::super::job::Done = Box::new(move |result| {
                let _ = sender.send(result);
            });
            let now = Instant::now();
            // SAFETY: there is no memory behind this job, and puppets touch none.
            let job = unsafe { Job::new(vec![], vec![], images, now, done) };
            let job = self.shared.submit(job, images, deadline.map(|d| now + d))?;
            Ok((job, receiver))
        }

        fn started(&self) -> usize {
            self.started.recv_timeout(PATIENCE).expect("a batch starts")
        }

        fn end(self) -> Stats {
            self.shared.close();
            drop(self.orders);
            for thread in self.threads {
                thread.join().expect("no thread panics");
            }
            self.shared.stats()
        }
    }

    /// Long enough for any machine; nothing is measured with it.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn outcome(receiver: &Receiver<Result<Timing>>) -> Result<Timing> {
        receiver.recv_timeout(PATIENCE).expect("the request ends")
    }

    fn kind(receiver: &Receiver<Result<Timing>>) -> ErrorKind {
        outcome(receiver).expect_err("the request fails").kind()
    }

    #[test]
    fn what_waits_becomes_a_batch() {
        let stage = Stage::new(1, &[1, 2, 4], 100, Duration::ZERO);
        let (_, first) = stage.submit(1, None).expect("room");
        assert_eq!(stage.started(), 1);
        let waiting: Vec<_> = (0..7).map(|_| stage.submit(1, None).expect("room").1).collect();
        for batch in [4, 2, 1] {
            stage.orders[0].send(Order::Succeed).expect("the stream lives");
            assert_eq!(stage.started(), batch);
        }
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        assert_eq!(outcome(&first).expect("runs").batch, 1);
        let batches: Vec<_> = waiting.iter().map(|w| outcome(w).expect("runs").batch).collect();
        assert_eq!(batches, [4, 4, 4, 4, 2, 2, 1]);
        let stats = stage.end();
        assert_eq!(stats.batches, [(1, 2), (2, 1), (4, 1)]);
        assert_eq!((stats.accepted, stats.executions, stats.images), (8, 4, 8));
    }

    #[test]
    fn a_large_request_is_spread_over_streams_and_ends_once() {
        let stage = Stage::new(2, &[1, 2, 4], 1, Duration::ZERO);
        let (_, done) = stage.submit(6, None).expect("an empty queue takes any request");
        let first = stage.started() + stage.started();
        // Two of it are left, or none where only one stream was waiting at first.
        stage.orders.iter().for_each(|o| (0..6).for_each(|_| o.send(Order::Succeed).unwrap()));
        let mut images = first;
        while images < 6 {
            images += stage.started();
        }
        outcome(&done).expect("runs");
        assert!(done.try_recv().is_err(), "it ended twice");
        stage.end();
    }

    #[test]
    fn company_is_waited_for_until_the_batch_is_full() {
        let stage = Stage::new(1, &[1, 2], 100, PATIENCE);
        let (_, first) = stage.submit(1, None).expect("room");
        let (_, second) = stage.submit(1, None).expect("room");
        assert_eq!(stage.started(), 2);
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        assert_eq!(outcome(&first).expect("runs").batch, 2);
        outcome(&second).expect("runs");
        // Closing ends the wait: what was accepted is finished.
        let (_, third) = stage.submit(1, None).expect("room");
        stage.shared.close();
        assert_eq!(stage.started(), 1);
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        outcome(&third).expect("runs");
        stage.end();
    }

    #[test]
    fn what_expires_in_the_queue_ends_while_streams_are_busy_and_is_never_run() {
        let stage = Stage::new(1, &[1], 100, Duration::ZERO);
        let (_, running) = stage.submit(1, Some(Duration::from_millis(1))).expect("room");
        if stage.started.recv_timeout(Duration::from_millis(200)).is_err() {
            // So busy a machine that even the first one expired.
            assert_eq!(kind(&running), ErrorKind::Timeout);
            let (_, running) = stage.submit(1, None).expect("room");
            assert_eq!(stage.started(), 1);
            drop(running);
        }
        let (_, late) = stage.submit(1, Some(Duration::from_millis(20))).expect("room");
        let (_, later) = stage.submit(2, Some(Duration::from_millis(5))).expect("room");
        // The stream has no orders yet.
        assert_eq!(kind(&late), ErrorKind::Timeout);
        assert_eq!(kind(&later), ErrorKind::Timeout);
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        let stats = stage.end();
        assert!((2..=3).contains(&stats.expired));
        assert_eq!((stats.images, stats.queued_images, stats.running_images), (1, 0, 0));
    }

    #[test]
    fn a_panic_is_one_batchs_error() {
        let stage = Stage::new(1, &[1], 100, Duration::ZERO);
        let (_, first) = stage.submit(1, None).expect("room");
        let (_, second) = stage.submit(1, None).expect("room");
        stage.orders[0].send(Order::Panic).expect("the stream lives");
        assert_eq!(kind(&first), ErrorKind::Internal);
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        outcome(&second).expect("the stream survived");
        let stats = stage.end();
        assert_eq!((stats.panics, stats.failed_executions, stats.executions), (1, 1, 2));
    }

    #[test]
    fn a_completion_that_panics_ends_no_stream() {
        let stage = Stage::new(1, &[1], 100, Duration::ZERO);
        // SAFETY: there is no memory behind this job, and puppets touch none.
        let job = unsafe {
            Job::new(vec![], vec![], 1, Instant::now(), Box::new(|_| panic!("on purpose")))
        };
        stage.shared.submit(job, 1, None).expect("room");
        let (_, second) = stage.submit(1, None).expect("room");
        (0..2).for_each(|_| stage.orders[0].send(Order::Succeed).expect("the stream lives"));
        outcome(&second).expect("the stream survived");
        stage.end();
    }

    #[test]
    fn a_full_queue_and_a_closed_session_refuse() {
        let stage = Stage::new(1, &[1], 2, Duration::ZERO);
        let (_, running) = stage.submit(1, None).expect("room");
        assert_eq!(stage.started(), 1);
        let (_, waiting) = stage.submit(2, None).expect("room");
        let refused = stage.submit(1, None).err().expect("no room");
        assert_eq!(refused.kind(), ErrorKind::QueueFull);
        assert!(refused.to_string().contains("2 images of at most 2"), "{refused}");
        assert!(!stage.shared.drain(Some(Instant::now())), "something runs");
        stage.shared.close();
        assert_eq!(stage.submit(1, None).err().expect("closed").kind(), ErrorKind::Closed);
        (0..3).for_each(|_| stage.orders[0].send(Order::Succeed).expect("the stream lives"));
        assert!(stage.shared.drain(None));
        // Drained means told.
        running.try_recv().expect("has ended").expect("runs");
        waiting.try_recv().expect("has ended").expect("accepted requests are finished");
        assert_eq!(stage.end().rejected, 2);
    }

    #[test]
    fn withdrawn_requests_are_not_run() {
        let stage = Stage::new(1, &[1], 9, Duration::ZERO);
        let (_running, _) = stage.submit(1, None).expect("room");
        assert_eq!(stage.started(), 1);
        let (second, second_done) = stage.submit(1, None).expect("room");
        let (_, third) = stage.submit(1, None).expect("room");
        stage.shared.cancel(&second);
        assert_eq!(kind(&second_done), ErrorKind::Closed);
        stage.shared.cancel(&second);
        stage.shared.withdraw();
        assert_eq!(kind(&third), ErrorKind::Closed);
        stage.orders[0].send(Order::Succeed).expect("the stream lives");
        let stats = stage.end();
        assert_eq!((stats.cancelled, stats.images), (2, 1));
    }
}
