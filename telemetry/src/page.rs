//! Serves `/metrics` on a socket of its own, because it is for operators and not for clients.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::prometheus_text, registry::Registry};
use tokio::net::TcpListener;

/// The text format of Prometheus, which every collector reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Routes `/metrics` to the metrics of a registry. Other routes may be added.
pub fn metrics_router(registry: Arc<Registry>) -> Router {
    Router::new().route("/metrics", get(page)).with_state(registry)
}

/// Serves the metrics of a registry as `/metrics` over HTTP, until the future is dropped.
pub async fn serve_metrics(listener: TcpListener, registry: Arc<Registry>) {
    serve_pages(listener, metrics_router(registry)).await;
}

/// Serves pages for operators, such as [`metrics_router`] with others, until the future is dropped.
pub async fn serve_pages(listener: TcpListener, pages: Router) {
    if let Err(error) = axum::serve(listener, pages).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn page(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
