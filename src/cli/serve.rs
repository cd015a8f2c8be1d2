//! `backscroll serve`.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll_tls::{ServerFiles, Token};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    rpc::Require,
    server::{self, Callers, Front, Stopping},
    store::Options,
    telemetry,
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
SIGTERM or SIGINT stops it: health turns NOT_SERVING, requests under way are finished, everything
is flushed, exit code 0; a second signal does not wait for requests. It opens no connection to
anywhere, but for traces where --otlp-endpoint is given.")]
pub(super) struct Args {
    /// Where the store lies; made if it is not there. One process at a time.
    #[arg(long, env = "BACKSCROLL_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// The address to serve gRPC on.
    #[arg(long, env = "BACKSCROLL_LISTEN", default_value = "127.0.0.1:8470", value_name = "ADDR")]
    listen: SocketAddr,

    /// The address to serve metrics on, as /metrics over HTTP. Left out: none are served.
    #[arg(long, env = "BACKSCROLL_METRICS_LISTEN", value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,

    /// Send traces to this collector, OTLP over gRPC, such as http://127.0.0.1:4317.
    #[arg(long, env = "BACKSCROLL_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<String>,

    /// Memory for caches, in MiB: the store's pages, states, events as they are served.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,

    /// Space on the volume that is never written to, in MiB. With less free, no events are taken,
    /// reads go on, and the ingest service is NOT_SERVING, until a quarter more than that is free.
    #[arg(long, env = "BACKSCROLL_RESERVED_MIB", default_value_t = 256, value_name = "MIB")]
    reserved_mib: u64,

    /// Start only where the file system makes each write durable before it returns. Otherwise such
    /// a file system is warned of, and the service syncs by its own means.
    #[arg(long, env = "BACKSCROLL_REQUIRE_DURABLE")]
    require_durable: bool,

    /// How long a write to the store may take, in seconds. After that the process is ended, with
    /// exit code 1: nothing that was acknowledged is lost, and opening the store again helps.
    #[arg(
        long,
        env = "BACKSCROLL_FLUSH_TIMEOUT_SECONDS",
        default_value_t = Options::FLUSH_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "SECONDS"
    )]
    flush_timeout_seconds: u64,

    /// How long everything goes on after a signal while health says NOT_SERVING, in seconds: as
    /// long as load balancers need to notice.
    #[arg(
        long,
        env = "BACKSCROLL_SHUTDOWN_NOTICE_SECONDS",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    shutdown_notice_seconds: u64,

    /// Serve with TLS: our certificate, PEM. Read again when it changes.
    #[arg(long, env = "BACKSCROLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its key, PEM.
    #[arg(long, env = "BACKSCROLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Take only callers who show a certificate signed by this authority, PEM. Needs --tls-cert.
    #[arg(long, env = "BACKSCROLL_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,

    /// Take only callers who show the token in this file, 16 bytes or more. It is for whoever
    /// feeds and operates the service, and does not open KeyService.
    #[arg(long, env = "BACKSCROLL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Gateways show the token in this file instead, another one. It opens what gateways call, and
    /// nothing else. Needs --token-file.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_TOKEN_FILE",
        value_name = "FILE",
        requires = "token_file"
    )]
    gateway_token_file: Option<PathBuf>,

    /// How long requests under way may take to finish when stopping, in seconds.
    #[arg(long, env = "BACKSCROLL_GRACE_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    grace_seconds: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let callers = args.callers()?;
    let Args { data_dir, listen, metrics_listen, cache_mib, reserved_mib, .. } = args;
    let (first, second) = stop_signals()?;
    let listener = bind(listen, "--listen").await?;
    let metrics = Metrics::new();
    if let Some(address) = metrics_listen {
        let listener = bind(address, "--metrics-listen").await?;
        tokio::spawn(telemetry::serve_metrics(listener, metrics.registry()));
    }
    let options = Options {
        reserved_bytes: reserved_mib << 20,
        require_durable: args.require_durable,
        flush_timeout: Duration::from_secs(args.flush_timeout_seconds),
        ..Options::plain(data_dir, cache_mib << 20)
    };
    let counted = metrics.clone();
    let opening = tokio::task::spawn_blocking(move || server::open_counted(&options, counted));
    let opening = async { opening.await? };
    let stopping = Stopping {
        notice: Duration::from_secs(args.shutdown_notice_seconds),
        grace: Duration::from_secs(args.grace_seconds),
    };
    let front = Front { listener, callers, metrics };
    server::run(front, opening, stopping, first.cancelled(), second.cancelled()).await
}

impl Args {
    /// Who may call, read from the files. Needs a runtime.
    fn callers(&self) -> anyhow::Result<Callers> {
        let Self { tls_cert, tls_key, client_ca, token_file, gateway_token_file, .. } =
            self.clone();
        let certificate = client_ca.is_some();
        let files = tls_cert.zip(tls_key);
        let tls = files.map(|(cert, key)| ServerFiles { cert, key, client_ca }.watched());
        let tls = tls.transpose().context("cannot use the files for TLS")?;
        let token = token_file.map(Token::watched).transpose().context("--token-file")?;
        let gateway_token = gateway_token_file.map(Token::watched).transpose();
        let gateway_token = gateway_token.context("--gateway-token-file")?;
        if let (Some(token), Some(gateway)) = (&token, &gateway_token) {
            let is_one = token.get().is_shown(gateway.get().header().as_bytes());
            ensure!(!is_one, "--gateway-token-file must hold another token than --token-file");
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
        .with_context(|| format!("cannot listen on {address}; give another {flag}"))
}

/// The first signal to stop, and the second. Heard from the start, so that a signal during the
/// opening is not lost.
fn stop_signals() -> io::Result<(CancellationToken, CancellationToken)> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let heard = [first.clone(), second.clone()];
    tokio::spawn(async move {
        for token in heard {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok((first, second))
}
