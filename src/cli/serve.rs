//! The command `backscroll serve`.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll_tls::{ServerFiles, Token};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{Mib, RedactedContentDays, StoreArgs};
use crate::{
    metrics::Metrics,
    rpc::Require,
    server::{self, Callers, Front, Stopping},
    store::Options,
    telemetry,
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
SIGTERM or SIGINT stops the service: its health becomes NOT_SERVING, running requests are finished,
everything is flushed, and the exit code is 0. After a second signal it does not wait for requests. The
service opens no connections, except for traces if --otlp-endpoint is given.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// The address to serve gRPC on.
    #[arg(
        long,
        env = "BACKSCROLL_LISTEN",
        default_value = "127.0.0.1:8470",
        value_name = "ADDRESS:PORT"
    )]
    listen: SocketAddr,

    /// The address to serve metrics on, as /metrics over HTTP. By default they are not served.
    #[arg(long, env = "BACKSCROLL_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,

    /// Send traces to this collector, with OTLP over gRPC, such as http://127.0.0.1:4317.
    #[arg(long, env = "BACKSCROLL_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<String>,

    /// Memory for caches, in MiB: pages of the store, room states, and events as they are served.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value = "256", value_name = "MIB")]
    cache_mib: Mib,

    /// Free space to keep on the volume, in MiB. Below it, new events are refused (DISK_FULL) and the
    /// ingest service is NOT_SERVING, but reads continue. Writing resumes when 25 % more than this is
    /// free.
    #[arg(long, env = "BACKSCROLL_RESERVED_MIB", default_value = "256", value_name = "MIB")]
    reserved_mib: Mib,

    /// Start only if the file system makes each write durable before the write returns. By default
    /// the service logs a warning on other file systems, and syncs by its own means.
    #[arg(long, env = "BACKSCROLL_REQUIRE_DURABLE")]
    require_durable: bool,

    /// The maximum time of a write to the store, in seconds. After that the process ends with exit
    /// code 1. No acknowledged event is lost, and the next start opens the store again.
    #[arg(
        long,
        env = "BACKSCROLL_FLUSH_TIMEOUT_SECONDS",
        default_value_t = Options::FLUSH_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "SECONDS"
    )]
    flush_timeout_seconds: u64,

    /// How long a read or a commit waits for a PostgreSQL database that does not answer, in seconds, if
    /// the caller waits that long. After that callers get UNAVAILABLE.
    #[arg(
        long,
        env = "BACKSCROLL_STORE_PATIENCE",
        default_value_t = Options::STORE_PATIENCE.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "SECONDS"
    )]
    store_patience: u64,

    /// How long to report NOT_SERVING while still serving, before stopping, in seconds. Load
    /// balancers need this time to notice.
    #[arg(
        long,
        env = "BACKSCROLL_SHUTDOWN_NOTICE_SECONDS",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    shutdown_notice_seconds: u64,

    /// Serve with TLS, with this certificate, PEM. The file is read again when it changes.
    #[arg(long, env = "BACKSCROLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, PEM.
    #[arg(long, env = "BACKSCROLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Accept only callers with a certificate that this authority signed, PEM. Requires --tls-cert.
    #[arg(long, env = "BACKSCROLL_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,

    /// Accept only callers that present the token in this file, of 16 bytes or more. It is for
    /// internal callers and operators, and does not allow KeyService.
    #[arg(long, env = "BACKSCROLL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The token of gateways, a different one. It allows what gateways call, and nothing else.
    /// Requires --token-file.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_TOKEN_FILE",
        value_name = "FILE",
        requires = "token_file"
    )]
    gateway_token_file: Option<PathBuf>,

    /// How long the content of redacted events stays on disk, in days, or `never` to keep it. With 0 it
    /// is removed at once. Other servers never get it.
    #[arg(
        long,
        env = "BACKSCROLL_REDACTED_CONTENT_DAYS",
        default_value = "7",
        value_name = "DAYS"
    )]
    redacted_content_days: RedactedContentDays,

    /// How long running requests may take to finish when stopping, in seconds.
    #[arg(long, env = "BACKSCROLL_DRAIN_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    drain_seconds: u64,
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let callers = args.callers()?;
    let ServeArgs { store, listen, metrics_listen, cache_mib, reserved_mib, .. } = args;
    let StopSignals { first, second } = stop_signals()?;
    let listener = bind(listen, "--listen").await?;
    let metrics = Metrics::new();
    if let Some(address) = metrics_listen {
        let listener = bind(address, "--metrics-listen").await?;
        tokio::spawn(telemetry::serve_metrics(listener, metrics.registry()));
    }
    let options = Options {
        reserved_bytes: reserved_mib.bytes,
        require_durable: args.require_durable,
        flush_timeout: Duration::from_secs(args.flush_timeout_seconds),
        store_patience: Duration::from_secs(args.store_patience),
        redacted_content: args.redacted_content_days.0,
        ..Options::of(store.place()?, cache_mib.bytes)
    };
    let counted = metrics.clone();
    let opening = tokio::task::spawn_blocking(move || server::open_counted(&options, counted));
    let opening = async { opening.await? };
    let stopping = Stopping {
        notice: Duration::from_secs(args.shutdown_notice_seconds),
        grace: Duration::from_secs(args.drain_seconds),
    };
    let front = Front { listener, callers, metrics };
    server::run(front, opening, stopping, first.cancelled(), second.cancelled()).await
}

impl ServeArgs {
    /// Reads what callers must present. Must be called within a runtime.
    fn callers(&self) -> anyhow::Result<Callers> {
        let Self { tls_cert, tls_key, client_ca, token_file, gateway_token_file, .. } =
            self.clone();
        let certificate = client_ca.is_some();
        let files = tls_cert.zip(tls_key);
        let tls = files.map(|(cert, key)| ServerFiles { cert, key, client_ca }.watched());
        let tls = tls.transpose().context("cannot use the TLS files")?;
        let token = token_file.map(Token::watched).transpose().context("--token-file")?;
        let gateway_token = gateway_token_file.map(Token::watched).transpose();
        let gateway_token = gateway_token.context("--gateway-token-file")?;
        if let (Some(token), Some(gateway)) = (&token, &gateway_token) {
            let is_same = token.get().is_shown(gateway.get().header().as_bytes());
            ensure!(!is_same, "--gateway-token-file must contain another token than --token-file");
        }
        if let Some(tls) = &tls {
            tls.watch();
        }
        for token in [&token, &gateway_token].into_iter().flatten() {
            token.watch();
        }
        Ok(Callers { tls, require: Require { certificate, token, gateway_token } })
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another {flag}"))
}

/// Tokens that are cancelled by the first and by the second signal to stop.
struct StopSignals {
    first: CancellationToken,
    second: CancellationToken,
}

/// Listens for signals from the start, so that a signal is not lost while the store is opened.
fn stop_signals() -> io::Result<StopSignals> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signals = StopSignals { first: CancellationToken::new(), second: CancellationToken::new() };
    let tokens = [signals.first.clone(), signals.second.clone()];
    tokio::spawn(async move {
        for token in tokens {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(signals)
}
