//! Health for probes: `/healthz`, `/readyz`, and `/metrics` beside them.

use std::net::SocketAddr;

use anyhow::Context as _;
use backscroll_telemetry::serve_metrics;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Starts to serve metrics and health.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(address: SocketAddr, metrics: &Metrics) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--metrics-listen)"))?;
    tokio::spawn(serve_metrics(listener, metrics.registry()));
    Ok(())
}
