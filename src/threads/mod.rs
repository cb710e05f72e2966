//! The runtime: which instruction set, how many threads, and the team that runs a plan.
//!
//! One fork per inference: every member runs the whole plan (SPMD) and meets the others at a barrier
//! after each step. The caller is member 0; rayon owns the other members' threads, each of which
//! stays in `Team::serve` for the runtime's life. Waiting is spinning for a bounded time, then
//! parking, both between inferences and at barriers.

mod queue;
mod team;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use skipstone_kernels::isa::Isa;

use crate::error::{Error, ErrorKind, Result};
use crate::knobs;
pub(crate) use queue::Queue;
use team::Team;

/// Most threads a runtime may have.
pub const MAX_THREADS: usize = 256;
const DEFAULT_SPIN: Duration = Duration::from_micros(100);

/// Worker threads and the chosen instruction set; cheap to clone, shared by executors.
///
/// Executors that share a runtime take turns: one inference at a time uses the threads.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    team: Arc<Team>,
    report: RuntimeReport,
    process: Process,
    /// Absent for one thread.
    workers: Option<Workers>,
}

/// The members that are not the caller.
#[derive(Debug)]
struct Workers {
    pool: rayon::ThreadPool,
    threads: Vec<JoinHandle<()>>,
}

/// The process that started some threads. `fork` copies memory, locks included, but no threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// # Errors
    /// [`ErrorKind::Forked`] in any other process.
    pub(crate) fn check(self) -> Result<()> {
        if self == Self::this() {
            return Ok(());
        }
        let message = "the process was forked after these threads were started; start them, and open \
                       models, in the child";
        Err(Error::new(ErrorKind::Forked, message))
    }
}

/// What a [`Runtime`] chose, and why.
#[derive(Clone, Debug)]
pub struct RuntimeReport {
    /// Instruction set tier.
    pub isa: Isa,
    /// Why that tier.
    pub isa_reason: String,
    /// Threads per inference, the caller's included.
    pub threads: usize,
    /// Why that many.
    pub threads_reason: String,
    /// How long an idle worker spins before it parks.
    pub spin: Duration,
}

/// Settings of a [`Runtime`]; what is not set comes from the environment, then from detection.
#[derive(Clone, Debug, Default)]
pub struct RuntimeBuilder {
    threads: Option<usize>,
    isa: Option<Isa>,
    spin: Option<Duration>,
}

impl RuntimeBuilder {
    /// Number of threads, the caller's included.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Instruction set tier.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// How long an idle worker spins before it parks.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = Some(spin);
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// A setting (or environment variable) that this machine cannot honour.
    pub fn build(self) -> Result<Runtime> {
        let (isa, isa_reason) = choose_isa(self.isa)?;
        let (threads, threads_reason) = choose_threads(self.threads)?;
        let spin = match (self.spin, from_env::<u64>(&knobs::SPIN_US)?) {
            (Some(spin), _) => spin,
            (None, Some(us)) => Duration::from_micros(us),
            (None, None) => DEFAULT_SPIN,
        };
        let team = Arc::new(Team::new(threads, spin));
        let workers = (threads > 1).then(|| Workers::start(&team)).transpose()?;
        let report = RuntimeReport { isa, isa_reason, threads, threads_reason, spin };
        let process = Process::this();
        Ok(Runtime { inner: Arc::new(Inner { team, report, process, workers }) })
    }
}

impl Runtime {
    /// Settings for a new runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// What was chosen, and why.
    pub fn report(&self) -> &RuntimeReport {
        &self.inner.report
    }

    /// Runs `job(member)` on every member of the team and waits for all.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if a member panicked; the others have been released.
    /// [`ErrorKind::Forked`] if this process is a fork of the one that started the team.
    pub(crate) fn fork(&self, job: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.inner.process.check()?;
        self.inner.team.fork(job)
    }

    /// Waits until every member is here. `false`: a member panicked and the job is to end.
    pub(crate) fn barrier(&self) -> bool {
        self.inner.team.barrier()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let workers = self.workers.take();
        if self.process.check().is_err() {
            // There is nobody to tell, and the locks may be held by threads that are not here.
            std::mem::forget(workers);
            return;
        }
        self.team.stop();
        if let Some(workers) = workers {
            workers.end();
        }
    }
}

impl Workers {
    fn start(team: &Arc<Team>) -> Result<Self> {
        let mut threads = vec![];
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(team.size() - 1)
            .spawn_handler(|thread| {
                let name = format!("skipstone-{}", thread.index() + 1);
                threads.push(std::thread::Builder::new().name(name).spawn(|| thread.run())?);
                Ok(())
            })
            .build()
            .map_err(|e| {
                let message = format!("cannot start {} worker threads: {e}", team.size() - 1);
                Error::new(ErrorKind::Internal, message).caused_by(e)
            })?;
        let team = Arc::clone(team);
        pool.spawn_broadcast(move |context| team.serve(context.index() + 1));
        Ok(Self { pool, threads })
    }

    /// Waits for the threads, which the team has told to leave: a library that is unloaded must
    /// not have any.
    fn end(self) {
        drop(self.pool);
        let this = std::thread::current().id();
        for thread in self.threads.into_iter().filter(|thread| thread.thread().id() != this) {
            // Members catch the panics of their jobs.
            let _ = thread.join();
        }
    }
}

fn from_env<T: std::str::FromStr<Err: fmt::Display>>(knob: &knobs::Knob) -> Result<Option<T>> {
    let parse = |text: String| {
        text.parse()
            .map_err(|e| Error::invalid(format!("environment variable {}={text}: {e}", knob.name)))
    };
    knob.get().map(parse).transpose()
}

fn choose_isa(asked: Option<Isa>) -> Result<(Isa, String)> {
    let (isa, source) = match (asked, from_env::<Isa>(&knobs::ISA)?) {
        (Some(isa), _) => (isa, "asked for".to_owned()),
        (None, Some(isa)) => (isa, format!("{} is set", knobs::ISA.name)),
        (None, None) => return Ok((Isa::best(), "the best this CPU has".to_owned())),
    };
    if !isa.is_available() {
        return Err(Error::invalid(format!("{isa}: {source}, but this CPU does not have it")));
    }
    Ok((isa, source))
}

pub(crate) fn choose_threads(asked: Option<usize>) -> Result<(usize, String)> {
    let (threads, source) = match (asked, from_env::<usize>(&knobs::THREADS)?) {
        (Some(n), _) => (n, "asked for".to_owned()),
        (None, Some(n)) => (n, format!("{} is set", knobs::THREADS.name)),
        (None, None) => match std::thread::available_parallelism() {
            Ok(n) => (
                n.get().min(MAX_THREADS),
                "CPUs this process may use, by affinity and cgroup quota".to_owned(),
            ),
            Err(e) => (1, format!("the number of CPUs is unknown: {e}")),
        },
    };
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(Error::invalid(format!("{threads} threads, expected 1..={MAX_THREADS}")));
    }
    Ok((threads, source))
}

/// The part of `0..total` that `member` of `count` does: contiguous, sizes differ by at most 1.
pub(crate) fn share(total: usize, member: usize, count: usize) -> Range<usize> {
    total * member / count..total * (member + 1) / count
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn runtime(threads: usize, spin_us: u64) -> Runtime {
        Runtime::builder()
            .threads(threads)
            .spin(Duration::from_micros(spin_us))
            .build()
            .expect("runtime starts")
    }

    #[test]
    fn members_meet_at_every_barrier() {
        for (threads, spin_us) in [(1, 0), (2, 0), (2, 1000), (5, 0), (5, 20)] {
            let runtime = runtime(threads, spin_us);
            for _ in 0..50 {
                let arrivals: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
                runtime
                    .fork(&|_| {
                        for step in &arrivals {
                            step.fetch_add(1, Ordering::SeqCst);
                            assert!(runtime.barrier());
                            assert_eq!(step.load(Ordering::SeqCst), threads);
                        }
                    })
                    .expect("no member panics");
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_team_survives() {
        for culprit in 0..3 {
            let runtime = runtime(3, 10);
            let result = runtime.fork(&|member| {
                assert!(member != culprit, "member {culprit} fails on purpose");
                while runtime.barrier() {}
            });
            assert_eq!(result.expect_err("it panicked").kind(), ErrorKind::Internal);
            runtime.fork(&|_| assert!(runtime.barrier())).expect("the team works again");
        }
    }

    #[test]
    fn callers_take_turns() {
        let runtime = runtime(2, 10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        runtime.fork(&|_| assert!(runtime.barrier())).expect("runs");
                    }
                });
            }
        });
    }

    #[test]
    fn shares_cover_everything_once() {
        for total in 0..40 {
            for count in 1..9 {
                let mut next = 0;
                for member in 0..count {
                    let part = share(total, member, count);
                    assert_eq!(part.start, next);
                    next = part.end;
                }
                assert_eq!(next, total);
            }
        }
    }

    #[test]
    fn impossible_settings_are_errors() {
        let zero = Runtime::builder().threads(0).build().expect_err("no threads");
        assert_eq!(zero.kind(), ErrorKind::InvalidArgument);
        assert!(Runtime::builder().threads(MAX_THREADS + 1).build().is_err());
    }
}
