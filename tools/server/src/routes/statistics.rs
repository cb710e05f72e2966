//! Triton's statistics extension.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::metadata::ModelPath;
use crate::app::App;
use crate::error::ApiResult;
use crate::model::Served;
use crate::stats::Spent;

pub(super) async fn all(State(app): State<Arc<App>>) -> Json<Value> {
    let models: Vec<_> = app.repository.all().iter().map(|m| statistics(m)).collect();
    Json(json!({ "model_stats": models }))
}

pub(super) async fn model(State(app): State<Arc<App>>, path: ModelPath) -> ApiResult<Json<Value>> {
    let model = app.model(&path.model, path.version.as_deref())?;
    Ok(Json(json!({ "model_stats": [statistics(&model)] })))
}

fn statistics(model: &Served) -> Value {
    let totals = model.stats.snapshot();
    let none = Spent::default();
    let batches = totals.batches.iter().map(|(size, [input, infer, output])| {
        json!({
            "batch_size": size,
            "compute_input": input,
            "compute_infer": infer,
            "compute_output": output,
        })
    });
    json!({
        "name": model.name,
        "version": model.version,
        "last_inference": totals.last_inference_ms,
        "inference_count": totals.inference_count,
        "execution_count": model.session.stats().executions,
        "inference_stats": {
            "success": totals.success,
            "fail": totals.fail,
            "queue": totals.queue,
            "compute_input": totals.compute_input,
            "compute_infer": totals.compute_infer,
            "compute_output": totals.compute_output,
            "cache_hit": none,
            "cache_miss": none,
        },
        "response_stats": {},
        "batch_stats": batches.collect::<Vec<_>>(),
        "memory_usage": [],
    })
}
