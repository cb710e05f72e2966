//! The command line of `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use skipstone::Hint;
use skipstone::plan::Numerics;
use tracing::level_filters::LevelFilter;

use crate::limits::Limits;
use crate::log::Format;
use crate::model::{Execution, Source};
use crate::repository::{Sources, check_name};
use crate::server::Settings;

/// Serve models over HTTP
///
/// Speaks the Open Inference Protocol v2 (KServe, Triton's clients), takes photographs at
/// `POST /v1/classify`, and shows a page at `/`. Reloads models whose files are replaced. SIGTERM
/// finishes what was accepted. tools/server/README.md has the details.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A packed model and its name; FILE may be a folder with one .skip file. May be repeated
    #[arg(short, long = "model", value_name = "NAME=FILE", value_parser = parse_model)]
    models: Vec<(String, PathBuf)>,
    /// A folder of NAME.skip, or of NAME/VERSION/FILE.skip, to serve all of
    #[arg(long, value_name = "DIR")]
    model_repository: Option<PathBuf>,
    /// Address and port
    #[arg(short, long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// What streams and threads are chosen for: `latency` or `throughput`
    #[arg(long, default_value_t, help_heading = "Execution")]
    hint: Hint,
    /// Batches that may run at the same time [default: by the hint]
    #[arg(long, value_name = "N", help_heading = "Execution")]
    streams: Option<usize>,
    /// Threads of all streams together [default: the CPUs this process may use]
    #[arg(long, value_name = "N", help_heading = "Execution")]
    threads: Option<usize>,
    /// Most images in a batch [default: by the hint]
    #[arg(long, value_name = "N", help_heading = "Execution")]
    max_batch: Option<usize>,
    /// How long an image waits for others to fill a batch, in microseconds
    #[arg(long, value_name = "US", default_value_t = 0, help_heading = "Execution")]
    max_delay_us: u64,
    /// Images that may wait; requests beyond get 503 [default: 4 for each that can run]
    #[arg(long, value_name = "N", help_heading = "Execution")]
    max_queue: Option<usize>,
    /// Which rounding errors may be traded for time: `strict`, `fast` or `relaxed`
    #[arg(long, value_name = "CLASS", default_value_t, help_heading = "Execution")]
    numerics: Numerics,
    /// Read weights from the files as they are used, and share them with other processes
    ///
    /// Nobody may then overwrite a model file, only replace it by a rename. By default models are
    /// copied, and a file that changes under the server does no harm.
    #[arg(long, help_heading = "Execution")]
    mmap: bool,

    /// Deadline of requests that name none, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, help_heading = "Limits")]
    timeout_ms: u64,
    /// Largest body, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, help_heading = "Limits")]
    max_body_mib: usize,
    /// Most open connections
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits")]
    max_connections: usize,
    /// Most pixels of an image, in millions
    #[arg(long, value_name = "MP", default_value_t = 40, help_heading = "Limits")]
    max_image_megapixels: usize,

    /// How often model files are looked at, at most, in milliseconds; 0 for never
    ///
    /// Between changes they are not looked at, where the system tells of changes: on Linux, in local file systems,
    /// without symbolic links on the way.
    #[arg(long, value_name = "MS", default_value_t = 1000, help_heading = "Life")]
    reload_ms: u64,
    /// Seconds to go on after SIGTERM while not ready, so that balancers notice
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_seconds, help_heading = "Life")]
    drain_delay: f64,
    /// Seconds that accepted requests may take after that
    #[arg(long, value_name = "S", default_value_t = 20.0, value_parser = parse_seconds, help_heading = "Life")]
    drain_timeout: f64,
    /// Lines for people, or JSON
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Life")]
    pub(crate) log_format: Format,
    /// Least important events to log: error, warn, info, or debug (every request)
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Life")]
    pub(crate) log_level: LevelFilter,
}

impl Args {
    /// What the arguments say; without a model, `builtin` is served.
    pub(crate) fn settings(
        &self,
        builtin: Option<(&'static str, &'static [u8])>,
    ) -> anyhow::Result<Settings> {
        let mut models: Vec<(String, Source)> = vec![];
        for (name, path) in &self.models {
            if models.iter().any(|(other, _)| other == name) {
                bail!("two models are named '{name}'");
            }
            models.push((name.clone(), Source::File(path.clone())));
        }
        if models.is_empty() && self.model_repository.is_none() {
            let (name, bytes) =
                builtin.context("no model: use --model NAME=FILE or --model-repository DIR")?;
            models.push((name.to_owned(), Source::Builtin(bytes)));
        }
        Ok(Settings {
            listen: self.listen,
            sources: Sources { models, repository: self.model_repository.clone() },
            execution: Execution {
                hint: self.hint,
                streams: self.streams,
                threads: self.threads,
                max_batch: self.max_batch,
                max_queue: self.max_queue,
                max_delay: Duration::from_micros(self.max_delay_us),
                numerics: self.numerics,
                mmap: self.mmap,
            },
            limits: self.limits(),
            reload: (self.reload_ms > 0).then(|| Duration::from_millis(self.reload_ms)),
            drain_delay: Duration::from_secs_f64(self.drain_delay),
            drain_timeout: Duration::from_secs_f64(self.drain_timeout),
        })
    }

    fn limits(&self) -> Limits {
        let default = Limits::default();
        let max_body_bytes = self.max_body_mib.saturating_mul(1 << 20);
        Limits {
            max_body_bytes,
            max_bytes_in_flight: default.max_bytes_in_flight.max(2 * max_body_bytes),
            max_connections: self.max_connections.max(1),
            default_deadline: Duration::from_millis(self.timeout_ms),
            max_image_pixels: self.max_image_megapixels.saturating_mul(1_000_000),
            ..default
        }
    }
}

fn parse_model(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=FILE")?;
    check_name(name).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), path.into()))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s| (0.0..=86_400.0).contains(s));
    seconds.ok_or_else(|| "expected seconds, at most a day".to_owned())
}
