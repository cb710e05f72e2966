//! Liveness and readiness.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::metadata::ModelPath;
use crate::app::App;
use crate::error::ApiResult;

pub(super) async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "live": true, "ready": ready }))).into_response()
}

pub(super) async fn model_ready(
    State(app): State<Arc<App>>,
    path: ModelPath,
) -> ApiResult<Response> {
    let model = app.model(&path.model, path.version.as_deref())?;
    Ok(Json(json!({ "name": model.name, "ready": true })).into_response())
}
