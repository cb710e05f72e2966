//! The one error type: a stable kind, what happened, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for a program to act on. Stable: a kind keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside what the call accepts.
    InvalidArgument,
    /// A file does not exist or cannot be read or written.
    Io,
    /// A file is not what it says it is: bad magic, truncated, inconsistent.
    Format,
    /// Stored bytes do not match their checksum.
    Checksum,
    /// The file's version is one this library does not read.
    Version,
    /// The network uses an operator, attribute or shape that is not supported.
    Unsupported,
    /// A tensor's shape does not fit where it is used.
    Shape,
    /// There is not enough memory.
    NoMemory,
    /// Results differ from the reference they are held against.
    Mismatch,
    /// A queue has no room: try again later, or elsewhere.
    QueueFull,
    /// The deadline passed before the work began.
    Timeout,
    /// The work was withdrawn, or came after its session was closed.
    Closed,
    /// The process was forked: its threads, and so sessions and runtimes, stayed with the parent.
    Forked,
    /// A defect of this library (a caught panic).
    Internal,
}

/// An error with its place: the file, the node, or both.
#[derive(Debug)]
// One pointer: a result that carries no error should not be a hundred bytes to move.
pub struct Error(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: ErrorKind,
    message: String,
    node: Option<String>,
    file: Option<PathBuf>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what was found and what was expected.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Details { kind, message, node: None, file: None, source: None }))
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    #[cold]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    #[cold]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Shorthand for [`ErrorKind::Shape`].
    #[cold]
    pub fn shape(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Shape, message)
    }

    /// Shorthand for [`ErrorKind::Format`].
    #[cold]
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    /// An I/O error on `path`.
    #[cold]
    pub fn io(path: &Path, action: &str, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {action}: {source}"))
            .in_file(path)
            .caused_by(source)
    }

    /// Adds the node's name and operator, e.g. `"layer1.0.conv1 (Conv)"`, unless one is named.
    #[must_use]
    #[cold]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.0.node.get_or_insert_with(|| node.into());
        self
    }

    /// Adds the file, unless one is named.
    #[must_use]
    #[cold]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.file.get_or_insert_with(|| file.into());
        self
    }

    /// Adds the underlying error.
    #[must_use]
    #[cold]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, for a program to act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The node the error is about, if it is about one.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The file the error is about, if it is about one.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(node) = &self.0.node {
            write!(f, "node {node}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e.as_ref() as _)
    }
}
