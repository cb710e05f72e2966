//! The page at `/`, carried in the program.

use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse, Response};

/// Nothing but this server's own files, and the photograph that the user drops.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-cache"),
];

pub(super) async fn html() -> Response {
    (HEADERS, Html(include_str!("../page/index.html"))).into_response()
}

pub(super) async fn css() -> Response {
    let kind = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (HEADERS, kind, include_str!("../page/page.css")).into_response()
}

pub(super) async fn js() -> Response {
    let kind = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (HEADERS, kind, include_str!("../page/page.js")).into_response()
}
