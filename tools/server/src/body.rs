//! Reading request bodies, within limits.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{ApiError, ApiResult};
use crate::limits::{Limits, MAX_DISCARDED_BYTES};

/// Memory for bodies, shared by all requests; counted in KiB.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// A whole body, and its share of the budget.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes >> 10)))
    }

    fn take(&self, bytes: usize) -> ApiResult<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        Arc::clone(&self.0)
            .try_acquire_many_owned(kib)
            .map_err(|_| ApiError::overloaded("too many bytes of requests are in memory"))
    }
}

/// Reads a body.
///
/// # Errors
/// 415 if it is compressed, 413 if it is too long, 503 if there is no memory left for it, 408 if it
/// is too slow.
pub(crate) async fn receive(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    budget: &Budget,
) -> ApiResult<Received> {
    let share = admit(headers, limits, budget);
    let (share, body) = discard_if_err(share, headers, body, limits)?;
    let bytes =
        timeout(limits.body_timeout, collect(headers, body, limits)).await.map_err(|_| {
            let message = format!("the body took longer than {:?}", limits.body_timeout);
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })??;
    Ok(Received { bytes, _share: share })
}

fn admit(headers: &HeaderMap, limits: &Limits, budget: &Budget) -> ApiResult<OwnedSemaphorePermit> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        let message = "compressed bodies are not accepted";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let len = content_length(headers);
    if len.is_some_and(|len| len > limits.max_body_bytes) {
        return Err(too_long(limits));
    }
    budget.take(len.unwrap_or(limits.max_body_bytes))
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long(limits: &Limits) -> ApiError {
    let message = format!("the body is longer than {} bytes", limits.max_body_bytes);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

async fn collect(headers: &HeaderMap, mut body: Body, limits: &Limits) -> ApiResult<Bytes> {
    let mut all = BytesMut::with_capacity(content_length(headers).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("the body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > limits.max_body_bytes {
            discard(body, limits);
            return Err(too_long(limits));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// Gives the body back with what was asked for. If that is an error, has the body read and dropped, so
/// that the connection can go on; or not even sent, if the client waits for leave (`Expect: 100-continue`).
pub(crate) fn discard_if_err<T>(
    result: ApiResult<T>,
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> ApiResult<(T, Body)> {
    match result {
        Ok(value) => Ok((value, body)),
        // Reading would give the leave. Whether the body comes all the same cannot be known.
        Err(error) if headers.contains_key(header::EXPECT) => Err(error.closing()),
        Err(error) => {
            discard(body, limits);
            Err(error)
        }
    }
}

/// Reads a body to its end beside the answer. A connection that closes with unread bytes is reset, and
/// the client may never see why.
fn discard(mut body: Body, limits: &Limits) {
    let read = async move {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(len) {
                Some(left) => left,
                None => break,
            };
        }
    };
    tokio::spawn(timeout(limits.body_timeout, read));
}
