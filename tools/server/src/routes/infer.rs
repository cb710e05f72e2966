//! The protocol's inference request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use skipstone::classes::top;
use skipstone::session::SessionPort;

use super::metadata::ModelPath;
use super::timing::{requested_timeout, server_timing};
use crate::app::App;
use crate::body::{discard_if_err, receive};
use crate::error::{ApiError, ApiResult};
use crate::infer::{Inferred, Record, deadline, infer as run, off_thread};
use crate::model::{Prepared, Served};
use crate::protocol::HEADER_LENGTH;
use crate::protocol::request::{Input, Request};
use crate::protocol::response::{Answer, Data, Output};

pub(super) async fn infer(
    State(app): State<Arc<App>>,
    path: ModelPath,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let started = Instant::now();
    let model = app.model(&path.model, path.version.as_deref());
    let (model, body) = discard_if_err(model, &headers, body, &app.limits)?;
    let mut record = Record::new(&app, &model, started);
    let answer = answer(&app, &model, &mut record, headers, body).await;
    answer.inspect_err(|error| record.failed(error))
}

async fn answer(
    app: &App,
    model: &Arc<Served>,
    record: &mut Record<'_>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    // Before the body is read, which may ask for a deadline of its own.
    let admitted = model.reserve(1).and_then(|place| {
        let timeout = requested_timeout(&headers)?;
        let latest = timeout.unwrap_or(app.limits.max_deadline);
        model.expect_in_time(deadline(app, record.started, Some(latest)))?;
        Ok((place, timeout))
    });
    let ((place, header_timeout), body) = discard_if_err(admitted, &headers, body, &app.limits)?;
    let body = receive(&headers, body, &app.limits, &app.budget).await?;
    let decode_started = Instant::now();
    let request = Request::parse(&body.bytes, json_len(&headers)?)?;
    let timeouts = [request.timeout_us.map(Duration::from_micros), header_timeout];
    let deadline = deadline(app, record.started, timeouts.into_iter().flatten().min());
    model.expect_in_time(deadline)?;
    let images = model.count_images(&request.inputs)?;
    check_outputs(&request, model)?;
    let mut places = vec![place];
    if images > 1 {
        places.push(model.reserve(images - 1)?);
    }
    let (request, prepared) = prepare(app, model, request, images, deadline).await?;
    drop(body);
    let decode = decode_started.elapsed();
    let result = run(model, prepared, places, deadline, decode).await?;
    let encode_started = Instant::now();
    let mut response = outputs(&request, model, &result)?.write()?;
    let stages = record.succeeded(&result, encode_started.elapsed());
    server_timing(response.headers_mut(), &stages);
    Ok(response)
}

fn json_len(headers: &HeaderMap) -> ApiResult<Option<usize>> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let len = value.to_str().ok().and_then(|text| text.parse().ok());
    len.map(Some)
        .ok_or_else(|| ApiError::bad_request("Inference-Header-Content-Length is no number"))
}

/// Makes input tensors: at once where they only have to be copied, else on another thread.
async fn prepare(
    app: &App,
    model: &Arc<Served>,
    request: Request,
    images: usize,
    deadline: Instant,
) -> ApiResult<(Request, Prepared)> {
    if request.inputs.iter().all(Input::is_cheap) {
        let prepared = model.prepare(&request.inputs, images, &app.limits)?;
        return Ok((request, prepared));
    }
    let (model, limits) = (Arc::clone(model), app.limits.clone());
    off_thread(app, deadline, move || {
        let prepared = model.prepare(&request.inputs, images, &limits)?;
        Ok((request, prepared))
    })
    .await
}

/// Checks the wishes for outputs before anything is computed.
fn check_outputs(request: &Request, model: &Served) -> ApiResult<()> {
    for wish in &request.outputs {
        let (_, port) = find_output(model, &wish.name)?;
        if wish.classification.is_some() && port.shape.h * port.shape.w != 1 {
            let message = format!("its shape is {}, expected classes", port.shape);
            return Err(ApiError::bad_request(message).about(&wish.name));
        }
    }
    Ok(())
}

fn find_output<'a>(model: &'a Served, name: &str) -> ApiResult<(usize, &'a SessionPort)> {
    let ports = model.session.outputs();
    ports.iter().enumerate().find(|(_, port)| port.port.name == name).ok_or_else(|| {
        let names: Vec<_> = ports.iter().map(|p| p.port.name.as_str()).collect();
        ApiError::bad_request(format!("no output '{name}'; there are: {}", names.join(", ")))
    })
}

fn outputs<'a>(
    request: &'a Request,
    model: &'a Served,
    result: &'a Inferred,
) -> ApiResult<Answer<'a>> {
    let tensor = |i: usize, classification: Option<usize>, binary: bool| {
        let port = &model.session.outputs()[i];
        let values = &result.outputs[i];
        let (shape, data) = match classification {
            None => (port.port.axes.dims(result.images, port.shape), Data::Floats(values)),
            Some(k) => {
                let k = k.min(port.shape.c);
                let rows = values.chunks(port.shape.c);
                let strings = rows.flat_map(|row| classes(row, k, model.model().labels()));
                (vec![result.images, k], Data::Strings(strings.collect()))
            }
        };
        Output { name: &port.port.name, shape, data, binary }
    };
    let outputs = if request.outputs.is_empty() {
        let all = 0..model.session.outputs().len();
        all.map(|i| tensor(i, None, request.binary_outputs)).collect()
    } else {
        let wished = request.outputs.iter().map(|wish| {
            let (i, _) = find_output(model, &wish.name)?;
            Ok(tensor(i, wish.classification, wish.binary))
        });
        wished.collect::<ApiResult<_>>()?
    };
    Ok(Answer {
        model_name: &model.name,
        model_version: &model.version,
        id: request.id.as_deref(),
        outputs,
    })
}

/// The best `k` classes of one image as the classification extension writes them.
fn classes(scores: &[f32], k: usize, labels: Option<&[String]>) -> Vec<String> {
    let best = top(scores, k).into_iter();
    let label = |i: usize| labels.and_then(|l| l.get(i)).map_or(String::new(), |l| format!(":{l}"));
    best.map(|i| format!("{:.6}:{i}{}", scores[i], label(i))).collect()
}
