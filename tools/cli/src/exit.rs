//! How a command ends: exit codes, error lines, panics.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::thread;

use skipstone::{Error, ErrorKind};

use crate::ui::Ui;

/// Shown under every command's help.
pub(crate) const HELP: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 3 bad model, \
    4 verification mismatch, 5 unsupported operator.";

/// Name of the thread that decodes images.
pub(crate) const IMAGE_THREAD: &str = "images";

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Everything that was asked for is done.
    Ok = 0,
    /// Something could not be done.
    Failure = 1,
    /// The command line asks for something that does not exist.
    Usage = 2,
    /// The model file is damaged or not a model.
    BadModel = 3,
    /// Checksums or results are not what the file says.
    Mismatch = 4,
    /// The network needs something that is not supported.
    Unsupported = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::Usage,
            ErrorKind::Format | ErrorKind::Checksum | ErrorKind::Version => Self::BadModel,
            ErrorKind::Mismatch => Self::Mismatch,
            ErrorKind::Unsupported => Self::Unsupported,
            _ => Self::Failure,
        }
    }
}

/// A library error with advice for the user.
#[derive(Debug)]
pub(crate) struct Hinted {
    pub(crate) error: Error,
    pub(crate) hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {}

/// An error of the command line that clap cannot see.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Runs a command; reports its error or panic.
pub(crate) fn guard(ui: &Ui, command: impl FnOnce() -> anyhow::Result<Exit>) -> Exit {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // A decoder that gives up on a damaged image is not a defect; the library catches it.
        if thread::current().name() != Some(IMAGE_THREAD) {
            default_hook(info);
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => report(ui, &error),
        Err(_) => {
            ui.error("a defect of skipstone: please report the message above");
            Exit::Failure
        }
    }
}

fn report(ui: &Ui, error: &anyhow::Error) -> Exit {
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref().is_some_and(broken_pipe)) {
        // Whoever read the output has seen enough.
        return Exit::Ok;
    }
    ui.error(&one_line(error));
    if let Some(hinted) = error.downcast_ref::<Hinted>() {
        ui.hint(&hinted.hint);
        return hinted.error.kind().into();
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        let mut cause = error.source();
        while let Some(error) = cause {
            ui.detail(&format!("caused by: {error}"));
            cause = error.source();
        }
        return error.kind().into();
    }
    if error.is::<UsageError>() { Exit::Usage } else { Exit::Failure }
}

/// What was tried and why it failed; not the causes of a library error, which its message sums up.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    line
}
