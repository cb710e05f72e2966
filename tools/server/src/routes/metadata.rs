//! What the server and its models are.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use serde_json::{Value, json};
use skipstone::session::SessionPort;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::model::dims;

/// The model of a path, and its version where the path has one.
pub(super) struct ModelPath {
    pub(super) model: String,
    pub(super) version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let Path(mut path) = path.map_err(|e| ApiError::bad_request(e.to_string()))?;
        let model = path.remove("model").unwrap_or_default();
        Ok(Self { model, version: path.remove("version") })
    }
}

pub(super) async fn server() -> Json<Value> {
    Json(json!({
        "name": "skipstone",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "classification", "statistics", "model_repository"],
    }))
}

pub(super) async fn model(State(app): State<Arc<App>>, path: ModelPath) -> ApiResult<Json<Value>> {
    let model = app.model(&path.model, path.version.as_deref())?;
    Ok(Json(json!({
        "name": model.name,
        "versions": [model.version],
        "platform": "skipstone",
        "inputs": ports(model.session.inputs()),
        "outputs": ports(model.session.outputs()),
    })))
}

fn ports(ports: &[SessionPort]) -> Vec<Value> {
    let port = |p: &SessionPort| {
        let shape = dims(&p.port.axes, p.shape);
        json!({ "name": p.port.name, "datatype": "FP32", "shape": shape })
    };
    ports.iter().map(port).collect()
}

/// The model repository extension's index. Models are loaded and dropped by their files alone.
pub(super) async fn index(State(app): State<Arc<App>>) -> Json<Value> {
    let entries = app.repository.index().into_iter().map(|entry| {
        json!({
            "name": entry.name,
            "version": entry.version,
            "state": if entry.ready { "READY" } else { "UNAVAILABLE" },
            "reason": entry.reason,
            "takes_images": entry.takes_images,
        })
    });
    Json(entries.collect())
}
