//! `POST /v1/classify`: an image file in, classes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use skipstone::classes::top;

use super::timing::{requested_timeout, server_timing};
use crate::app::App;
use crate::body::{discard_if_err, receive};
use crate::error::{ApiError, ApiResult};
use crate::infer::{Record, deadline, infer, off_thread};
use crate::model::Served;
use crate::stats::Stages;

const DEFAULT_TOPK: usize = 5;

#[derive(Deserialize)]
pub(super) struct Parameters {
    model: Option<String>,
    topk: Option<usize>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    version: &'a str,
    classes: Vec<Class<'a>>,
    timings_ms: Timings,
}

#[derive(Serialize)]
struct Class<'a> {
    index: usize,
    label: Option<&'a str>,
    score: f32,
}

#[derive(Serialize)]
struct Timings {
    decode: f64,
    queue: f64,
    compute: f64,
    total: f64,
}

pub(super) async fn classify(
    State(app): State<Arc<App>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let started = Instant::now();
    let chosen =
        parameters.map_err(|e| ApiError::bad_request(e.body_text())).and_then(|Query(asked)| {
            Ok((choose(&app, asked.model.as_deref())?, asked.topk.unwrap_or(DEFAULT_TOPK)))
        });
    let ((model, topk), body) = discard_if_err(chosen, &headers, body, &app.limits)?;
    let mut record = Record::new(&app, &model, started);
    let answer = answer(&app, &model, &mut record, headers, body, topk).await;
    answer.inspect_err(|error| record.failed(error))
}

/// The model by name; without one, the first that takes images.
fn choose(app: &App, name: Option<&str>) -> ApiResult<Arc<Served>> {
    if let Some(name) = name {
        return app.model(name, None);
    }
    let found = app.repository.all().into_iter().find(|model| model.takes_images());
    found.ok_or_else(|| ApiError::not_found("no model takes images"))
}

async fn answer(
    app: &App,
    model: &Arc<Served>,
    record: &mut Record<'_>,
    headers: HeaderMap,
    body: Body,
    topk: usize,
) -> ApiResult<Response> {
    // Before the body is read: a full server spends nothing on what it will not run.
    let admitted = model.reserve(1).and_then(|place| {
        let deadline = deadline(app, record.started, requested_timeout(&headers)?);
        model.expect_in_time(deadline)?;
        Ok((place, deadline))
    });
    let ((place, deadline), body) = discard_if_err(admitted, &headers, body, &app.limits)?;
    let body = receive(&headers, body, &app.limits, &app.budget).await?;
    let decode_started = Instant::now();
    let prepared = {
        let (model, limits) = (Arc::clone(model), app.limits.clone());
        off_thread(app, deadline, move || model.prepare_file(&body.bytes, &limits)).await?
    };
    let decode = decode_started.elapsed();
    let result = infer(model, prepared, vec![place], deadline, decode).await?;
    let encode_started = Instant::now();
    let probabilities = model.scores.probabilities(&result.outputs[0]);
    let labels = model.model().labels();
    let class = |index: usize| Class {
        index,
        label: labels.and_then(|l| l.get(index)).map(String::as_str),
        score: probabilities[index],
    };
    let classes = top(&probabilities, topk).into_iter().map(class).collect();
    let stages = record.succeeded(&result, encode_started.elapsed());
    let answer = Answer {
        model: &model.name,
        version: &model.version,
        classes,
        timings_ms: Timings::new(&stages),
    };
    let mut response = Json(answer).into_response();
    server_timing(response.headers_mut(), &stages);
    Ok(response)
}

impl Timings {
    fn new(stages: &Stages) -> Self {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            decode: ms(stages.decode),
            queue: ms(stages.queue),
            compute: ms(stages.compute),
            total: ms(stages.total),
        }
    }
}
