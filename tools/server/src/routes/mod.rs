//! Paths and what answers them.

mod classify;
mod health;
mod infer;
mod metadata;
mod page;
mod statistics;
mod timing;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, error};

use crate::app::App;
use crate::error::ApiError;

pub(crate) fn router(app: Arc<App>) -> Router {
    let router = Router::new()
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics))
        .route("/v1/classify", post(classify::classify))
        .route("/v2", get(metadata::server))
        .route("/v2/", get(metadata::server))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/v2/models/stats", get(statistics::all))
        .route("/v2/repository/index", get(metadata::index).post(metadata::index));
    let router = model_routes(router, "", || get(metadata::model));
    let router = model_routes(router, "/ready", || get(health::model_ready));
    let router = model_routes(router, "/stats", || get(statistics::model));
    let router = model_routes(router, "/infer", || post(infer::infer));
    let panics = Arc::clone(&app);
    router
        .fallback(async |uri: Uri| ApiError::not_found(format!("nothing at {}", uri.path())))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(CatchPanicLayer::custom(move |_| {
            panics.metrics.panics.inc();
            error!("a request panicked: please report the message above");
            ApiError::internal("a defect of the server").into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// A route below each model, and below each of its versions.
fn model_routes(
    router: Router<Arc<App>>,
    path: &str,
    route: impl Fn() -> MethodRouter<Arc<App>>,
) -> Router<Arc<App>> {
    router
        .route(&format!("/v2/models/{{model}}{path}"), route())
        .route(&format!("/v2/models/{{model}}/versions/{{version}}{path}"), route())
}

/// Logs requests, gives trace contexts back, and has connections closed while draining.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let trace = request.headers().get("traceparent").cloned();
    let mut response = next.run(request).await;
    debug!(
        %method,
        path,
        status = response.status().as_u16(),
        ms = started.elapsed().as_secs_f64() * 1e3,
        trace = trace.as_ref().and_then(|t| t.to_str().ok()),
        "request"
    );
    let headers = response.headers_mut();
    if let Some(trace) = trace {
        headers.insert("traceparent", trace);
    }
    if app.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text().map_err(|e| ApiError::internal(e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
