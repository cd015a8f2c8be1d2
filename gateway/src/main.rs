//! The process: flags, log, sockets, signals. Everything else is in the library.

use std::io::{self, Write as _};

use anyhow::Context as _;
use backscroll_gateway::{command::Invocation, config::Config, server};
use backscroll_telemetry::{self as telemetry, Logs};
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
    match Invocation::parse() {
        Invocation::Serve(config) => serve(*config).await,
        Invocation::ShadowReport(flags) => {
            write!(io::stdout(), "{}", flags.report().await?).context("cannot print the report")
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
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
        let metrics = telemetry::metrics_router(options.metrics.registry());
        let shadow = options.shadow.as_ref().map(|it| it.results.page());
        let pages = metrics.merge(shadow.unwrap_or_default());
        tokio::spawn(telemetry::serve_pages(listener, pages));
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
