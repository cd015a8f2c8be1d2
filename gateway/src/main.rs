//! The process: flags, log, socket, signals. Everything else is in the library.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use backscroll_gateway::{
    config::{Config, LogFormat},
    server,
};
use clap::Parser as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    start_log(&config)?;
    let listen = config.listen;
    let options = config.into_options()?;
    let mut signals = Signals::new()?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(
        server_name = %options.server_name,
        history = ?options.history.urls,
        pinned_servers = options.keys.len(),
        "listening on {}", listener.local_addr()?
    );

    let stop = CancellationToken::new();
    let mut serving = Box::pin(server::serve(listener, options, stop.cancelled()));
    tokio::select! {
        () = &mut serving => return Ok(()),
        () = signals.next() => stop.cancel(),
    }
    tokio::select! {
        () = serving => {}
        () = signals.next() => tracing::warn!("a second signal: not waiting any longer"),
    }
    tracing::info!("stopped");
    Ok(())
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("--log")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
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
