//! The process: flags, log, sockets, signals. Everything else is in the library.

use anyhow::Context as _;
use backscroll_gateway::{config::Config, server};
use backscroll_telemetry::{self as telemetry, Logs};
use clap::Parser as _;
use mimalloc::MiMalloc;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let logs = Logs { format: config.log_format, filter: &config.log };
    let _traces = telemetry::start("backscroll-gateway", logs, config.otlp_endpoint.as_deref())?;
    let (listen, metrics_listen) = (config.listen, config.metrics_listen);
    let options = config.into_options()?;
    let mut signals = Signals::new()?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    if let Some(address) = metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (--metrics-listen)"))?;
        tokio::spawn(telemetry::serve_metrics(listener, options.metrics.registry()));
    }
    tracing::info!(
        server_name = %options.server_name,
        history = ?options.history.urls,
        pinned_servers = options.keys.len(),
        "listening on {}", listener.local_addr()?
    );

    let stop = CancellationToken::new();
    let mut serving = Box::pin(server::serve(listener, options, stop.cancelled()));
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = signals.next() => stop.cancel(),
    }
    tokio::select! {
        ended = serving => ended?,
        () = signals.next() => tracing::warn!("received a second signal: stopping at once"),
    }
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
