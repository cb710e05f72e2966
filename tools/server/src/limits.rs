//! What a client may cost.

use std::time::Duration;

/// Bounds on every request and connection; the server holds them before it spends memory or time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    /// Most bytes of all bodies in memory at a time.
    pub max_bytes_in_flight: usize,
    /// Most open connections; more wait in the system's queue.
    pub max_connections: usize,
    /// Time for a request's head, from its first byte; on a new connection, from the start.
    pub head_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// Deadline of a request that names none.
    pub default_deadline: Duration,
    /// Longest deadline a request may ask for.
    pub max_deadline: Duration,
    /// Most columns, and most rows, of an image.
    pub max_image_side: usize,
    /// Most pixels of an image.
    pub max_image_pixels: usize,
    /// Most bytes an image decoder may hold, estimated.
    pub max_image_alloc_bytes: usize,
}

/// Most nested arrays and objects of a request's JSON.
pub(crate) const MAX_JSON_DEPTH: usize = 32;
/// Most input or output tensors of a request.
pub(crate) const MAX_TENSORS: usize = 16;
/// Most bytes of a request's head.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;
/// Bytes of a refused request's body that are read and dropped, so that the client sees the answer.
pub(crate) const MAX_DISCARDED_BYTES: usize = 64 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_bytes_in_flight: 256 << 20,
            max_connections: 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            default_deadline: Duration::from_secs(2),
            max_deadline: Duration::from_secs(60),
            max_image_side: 8192,
            max_image_pixels: 40_000_000,
            max_image_alloc_bytes: 160 << 20,
        }
    }
}

impl Limits {
    /// As the image decoder takes them.
    pub(crate) fn image(&self) -> skipstone::image::Limits {
        skipstone::image::Limits {
            max_side: self.max_image_side,
            max_pixels: self.max_image_pixels,
            max_alloc_bytes: self.max_image_alloc_bytes,
        }
    }
}
