//! The operator's surface, on a second address (loopback unless configured otherwise): metrics,
//! readiness and liveness. What they say is asked of two closures; nothing is decided here.

use std::{
    future::{Ready, ready},
    sync::Arc,
};

use axum::{
    Router,
    http::{StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};

/// Writes the metrics in the Prometheus text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;
/// Says whether the collector can do its work now, or why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Routes of the operator's address: `/metrics`, `/readyz`, `/healthz`.
pub fn operator_router(metrics: Metrics, ready_now: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(move || ready(show_metrics(&metrics))))
        .route("/readyz", get(move || ready(show_readiness(&ready_now))))
        .route("/healthz", get(healthz))
        .layer(map_response(super::secure))
}

fn show_metrics(metrics: &Metrics) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE), (header::CACHE_CONTROL, "no-store")], metrics()).into_response()
}

fn show_readiness(ready_now: &Readiness) -> Response {
    let (status, text) = match ready_now() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    };
    (status, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}

pub(super) fn healthz() -> Ready<Response> {
    ready(([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response())
}
