//! Time in headers: deadlines that clients ask for, and where the time went.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

use crate::error::{ApiError, ApiResult};
use crate::stats::Stages;

/// Milliseconds after which a client no longer wants the answer.
const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

pub(super) fn requested_timeout(headers: &HeaderMap) -> ApiResult<Option<Duration>> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let ms = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|ms| *ms > 0);
    let ms =
        ms.ok_or_else(|| ApiError::bad_request("X-Request-Timeout-Ms is no number above 0"))?;
    Ok(Some(Duration::from_millis(ms)))
}

/// Sets `Server-Timing` (W3C), which browsers show, in milliseconds.
pub(super) fn server_timing(headers: &mut HeaderMap, stages: &Stages) {
    let [decode, queue, compute, encode, total] =
        [stages.decode, stages.queue, stages.compute, stages.encode, stages.total]
            .map(|time| time.as_secs_f64() * 1e3);
    let text = format!(
        "decode;dur={decode:.3}, queue;dur={queue:.3}, compute;dur={compute:.3}, \
         encode;dur={encode:.3}, total;dur={total:.3}"
    );
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert("server-timing", value);
    }
}
