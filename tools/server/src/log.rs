//! Structured logs on stderr. Bodies and results are never logged.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::panic;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{debug, error};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".to_owned()),
        }
    }
}

/// Starts logging, unless the process logs already.
pub(crate) fn start(format: Format, level: LevelFilter) {
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let _ = match format {
        Format::Text => log.try_init(),
        Format::Json => log.json().flatten_event(true).try_init(),
    };
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Runs an image decoder. One that gives up on a damaged file is no defect; the library catches it.
pub(crate) fn decoding<T>(decode: impl FnOnce() -> T) -> T {
    DECODING.set(true);
    let decoded = decode();
    DECODING.set(false);
    decoded
}

/// Makes panics events of the log.
pub(crate) fn panics() {
    panic::set_hook(Box::new(|info| {
        if DECODING.get() {
            debug!("a decoder gave up: {info}");
        } else {
            error!("panic: {info}");
        }
    }));
}
