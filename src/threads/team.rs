//! The team's protocol: how members get a job, meet at barriers, and rest in between.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, fence,
};

/// How often a waiter looks at a turnstile between two looks at the clock.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 64 };

/// A counter that threads wait on: they spin for a while, then park.
struct Turnstile {
    value: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Turnstile {
    fn new() -> Self {
        Self {
            value: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    fn now(&self) -> u32 {
        self.value.load(Ordering::SeqCst)
    }

    /// Lets everyone through who waits on the present value.
    fn advance(&self) {
        self.value.fetch_add(1, Ordering::SeqCst);
        // A waiter counts itself before it looks at the value for the last time, so either it sees
        // the new value or it is seen here: both have a fence between their write and their read.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.guard());
            self.wake.notify_all();
        }
    }

    /// Waits until the value is no longer `seen`.
    fn pass(&self, seen: u32, spin: Duration) {
        let mut deadline = None;
        loop {
            for _ in 0..LOOKS {
                if self.value.load(Ordering::Acquire) != seen {
                    return;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now >= *deadline.get_or_insert(now + spin) {
                break;
            }
        }
        let mut guard = self.guard();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while self.now() == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Job = *const (dyn Fn(usize) + Sync);

pub(super) struct Team {
    size: usize,
    spin: Duration,
    /// Held by the caller whose inference runs.
    turn: Mutex<()>,
    /// The running job; written by the caller before `jobs` advances, read by workers after.
    job: UnsafeCell<Option<Job>>,
    jobs: Turnstile,
    /// Workers still in the job; the last one advances `done`.
    running: AtomicUsize,
    done: Turnstile,
    arrived: AtomicUsize,
    passed: Turnstile,
    aborted: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is written only by the holder of `turn` while no worker is in a job (`running` is 0),
// and read by workers only between `jobs` advancing and their decrement of `running`.
unsafe impl Sync for Team {}
// SAFETY: as above; the pointer is only dereferenced while `fork` keeps its target alive.
unsafe impl Send for Team {}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Team {
    /// A team of `size` members, the caller included; waiters spin for `spin` before they park.
    pub(super) fn new(size: usize, spin: Duration) -> Self {
        Self {
            size,
            spin,
            turn: Mutex::new(()),
            job: UnsafeCell::new(None),
            jobs: Turnstile::new(),
            running: AtomicUsize::new(0),
            done: Turnstile::new(),
            arrived: AtomicUsize::new(0),
            passed: Turnstile::new(),
            aborted: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// Members, the caller included.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Ends the workers' lives. No job may be running, and none may follow.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.jobs.advance();
    }

    /// Runs `job(member)` on every member and waits for all.
    pub(super) fn fork(&self, job: &(dyn Fn(usize) + Sync)) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.aborted.store(false, Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
        let done = self.done.now();
        if self.size > 1 {
            // SAFETY: only the lifetime is erased; this function does not return before every
            // worker has left the job. No worker is in a job now, so the cell is not being read.
            unsafe {
                *self.job.get() = Some(std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job));
            }
            self.running.store(self.size - 1, Ordering::SeqCst);
            self.jobs.advance();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| job(0)));
        if outcome.is_err() {
            self.abort();
        }
        if self.size > 1 {
            self.done.pass(done, self.spin);
        }
        match outcome {
            Err(panic) => Err(panicked(panic.as_ref())),
            Ok(()) if self.aborted.load(Ordering::SeqCst) => Err(panicked(&())),
            Ok(()) => Ok(()),
        }
    }

    /// A worker's life: one job after another.
    pub(super) fn serve(&self, member: usize) {
        // Jobs are counted from 0 and this worker missed none: `fork` waits for all workers.
        let mut seen = 0;
        loop {
            self.jobs.pass(seen, self.spin);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            seen = seen.wrapping_add(1);
            // SAFETY: written before `jobs` advanced, and not again before `running` is 0.
            let job = unsafe { (*self.job.get()).expect("a job was published") };
            // SAFETY: `fork` keeps the target alive until `running` is 0.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(member) }));
            if outcome.is_err() {
                self.abort();
            }
            if self.running.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.done.advance();
            }
        }
    }

    /// Waits until every member is here. `false`: a member panicked and the job is to end.
    pub(super) fn barrier(&self) -> bool {
        if self.size == 1 {
            return true;
        }
        let seen = self.passed.now();
        if self.aborted.load(Ordering::SeqCst) {
            return false;
        }
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.size {
            self.arrived.store(0, Ordering::SeqCst);
            self.passed.advance();
        } else {
            self.passed.pass(seen, self.spin);
        }
        !self.aborted.load(Ordering::SeqCst)
    }

    /// Releases the members that wait for one that will not come.
    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.passed.advance();
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(
        ErrorKind::Internal,
        format!("a thread of the runtime panicked: {}", text.unwrap_or("see its message above")),
    )
}

/// ```text
/// RUSTFLAGS="--cfg loom" cargo test --release --lib --no-default-features --target-dir target/loom models
/// ```
#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Runs `caller` as member 0 of a team of `size`, in every way the memory model allows.
    fn model(size: usize, caller: impl Fn(&Team) + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        // More involuntary switches than these find no more in protocols of this kind.
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let team = Arc::new(Team::new(size, Duration::ZERO));
            let workers: Vec<_> = (1..size)
                .map(|member| {
                    let team = Arc::clone(&team);
                    thread::spawn(move || team.serve(member))
                })
                .collect();
            caller(&team);
            team.stop();
            workers.into_iter().for_each(|w| w.join().expect("a worker returns"));
        });
    }

    #[test]
    fn each_job_runs_once_on_every_member() {
        model(2, |team| {
            for _ in 0..2 {
                let ran = AtomicUsize::new(0);
                team.fork(&|_| _ = ran.fetch_add(1, Ordering::Relaxed)).expect("no panic");
                assert_eq!(ran.load(Ordering::Relaxed), 2);
            }
        });
    }

    #[test]
    fn what_was_written_before_a_barrier_is_read_after_it() {
        model(2, |team| {
            let cells = [0, 1].map(|_| loom::cell::UnsafeCell::new(0));
            let shared = Shared(&cells);
            team.fork(&|member| {
                let cells = &shared;
                // SAFETY: only `member` writes this cell before the barrier, and none after it.
                cells.0[member].with_mut(|p| unsafe { *p = member + 1 });
                assert!(team.barrier());
                // SAFETY: no one writes after the barrier.
                let other = cells.0[1 - member].with(|p| unsafe { *p });
                assert_eq!(other, 2 - member);
                assert!(team.barrier());
            })
            .expect("no panic");
        });
    }

    /// Cells that members share; the barrier keeps their accesses apart.
    struct Shared<'a>(&'a [loom::cell::UnsafeCell<usize>; 2]);
    // SAFETY: the model checker itself reports accesses that no barrier keeps apart.
    unsafe impl Sync for Shared<'_> {}

    #[test]
    fn a_panic_releases_who_waits() {
        // Else the message would be printed in every one of thousands of executions.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"on purpose") {
                hook(info);
            }
        }));
        model(2, |team| {
            let failed = team.fork(&|member| {
                assert!(member == 0, "on purpose");
                while team.barrier() {}
            });
            assert!(failed.is_err());
            team.fork(&|_| assert!(team.barrier())).expect("the team works again");
        });
    }
}
