//! `skipstone serve`: models over HTTP.
//!
//! | layer | module |
//! |---|---|
//! | command line, logs | `args`, `log` |
//! | listening, loading, draining; one connection and its timers | `server`, `connection` |
//! | paths and handlers | `routes` |
//! | bodies within limits; JSON and binary tensors | `body`, `limits`, `protocol` |
//! | one inference, from bytes to outputs | `infer` |
//! | models, their sessions and files | `model`, `repository`, `watch` |
//! | rests under overload | `pace` |
//! | statistics and Prometheus | `stats`, `metrics` |
//! | the page | `routes::page`, `page/` |

mod app;
mod args;
mod body;
mod connection;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod infer;
mod limits;
mod log;
mod metrics;
mod model;
mod pace;
mod protocol;
mod repository;
mod routes;
mod server;
mod stats;
mod watch;

use std::future::Future;
use std::io;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

pub use args::Args;
pub use limits::Limits;
pub use model::{Execution, Source};
pub use repository::Sources;
pub use server::{Server, Settings};

/// Threads that serve connections, at most: they only copy and parse.
const MAX_WORKERS: usize = 4;

/// Serves as the command line says, until SIGTERM or SIGINT. Without a model there, `builtin`, a name
/// and a packed file, is served.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub fn run(args: &Args, builtin: Option<(&'static str, &'static [u8])>) -> anyhow::Result<()> {
    let settings = args.settings(builtin)?;
    log::start(args.log_format, args.log_level);
    log::panics();
    allow_files(settings.limits.max_connections);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(MAX_WORKERS))
        // Decoders, and one for the model files.
        .max_blocking_threads(cpus + 1)
        .thread_name("http")
        .on_thread_start(give_way)
        .on_thread_park(pace::rest)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stopped()?;
        let server = Server::bind(settings).await?;
        info!(address = %server.local_addr()?, "listening");
        server.run(stop).await
    })
}

/// Has this thread, when it wakes up and no CPU is free, wait for its turn instead of interrupting a run. It
/// then finds several requests at once, and a server under overload refuses them for less.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // Threads that this one starts, such as a session's, are not meant.
        let policy = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
        // As the kernel's `sched_param`. musl has no function for this call.
        let priority: libc::c_int = 0;
        // SAFETY: the call reads one `int`, which outlives it; 0 is the calling thread. If it is refused,
        // the thread goes on as it was.
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
    }
}

/// Ends at the first signal to stop. A second one ends the process.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        info!(signal, "stopping");
        let _ = first.send(());
        let signal = next().await;
        warn!(signal, "ending at once");
        std::process::exit(1);
    });
    Ok(async {
        let _ = stopped.await;
    })
}

/// Raises the process's limit of open files, where it is too low for the connections.
fn allow_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + 128;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    if setrlimit(Resource::Nofile, Rlimit { current, ..limit }).is_err() {
        warn!(wanted, "cannot raise the limit of open files");
    }
}
