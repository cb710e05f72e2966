//! The server without its sockets, for `tools/fuzz`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use crate::app::{App, Phase};
use crate::limits::Limits;
use crate::model::{Execution, Source};
use crate::protocol::HEADER_LENGTH;
use crate::repository::{Repository, Sources};
use crate::routes;

/// A server of one model, on the calling thread.
pub struct Fuzzed {
    runtime: tokio::runtime::Runtime,
    service: TowerToHyperService<Router>,
}

impl Fuzzed {
    /// Serves a packed file.
    ///
    /// # Errors
    /// A model that cannot be served.
    pub fn new(model: &'static [u8]) -> anyhow::Result<Self> {
        let models = vec![("m".to_owned(), Source::Builtin(model))];
        let sources = Sources { models, repository: None };
        let execution = Execution { streams: Some(1), threads: Some(1), ..Execution::default() };
        let limits = Limits { max_image_pixels: 1 << 20, ..Limits::default() };
        let app = Arc::new(App::new(limits, Repository::new(sources, execution)));
        app.repository.load(&app.metrics)?;
        app.enter(Phase::Serving);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Self { runtime, service: TowerToHyperService::new(routes::router(app)) })
    }

    /// Answers an inference request; `json_len` is what its header says of the body.
    ///
    /// # Errors
    /// What is no request.
    pub fn infer(&self, json_len: Option<usize>, body: Vec<u8>) -> anyhow::Result<StatusCode> {
        let mut request = Request::post("/v2/models/m/infer");
        if let Some(len) = json_len {
            request = request.header(HEADER_LENGTH, len);
        }
        let request = request.body(Body::from(body))?;
        let answer = self.runtime.block_on(self.service.call(request));
        Ok(answer.unwrap_or_else(|never| match never {}).status())
    }
}
