//! `backscroll serve`.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    server::{self, Stopping},
    store::Options,
    telemetry,
};

#[derive(Debug, clap::Args)]
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

    /// Memory for the store's page cache, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,

    /// Space on the volume that is never written to, in MiB. With less free, no events are taken,
    /// reads go on, and the ingest service is NOT_SERVING until there is more.
    #[arg(long, env = "BACKSCROLL_RESERVED_MIB", default_value_t = 256, value_name = "MIB")]
    reserved_mib: u64,

    /// How long everything goes on after a signal while health says NOT_SERVING, in seconds: as
    /// long as load balancers need to notice.
    #[arg(
        long,
        env = "BACKSCROLL_SHUTDOWN_NOTICE_SECONDS",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    shutdown_notice_seconds: u64,

    /// How long requests under way may take to finish when stopping, in seconds.
    #[arg(long, env = "BACKSCROLL_GRACE_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    grace_seconds: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { data_dir, listen, metrics_listen, cache_mib, reserved_mib, .. } = args;
    let (first, second) = stop_signals()?;
    let listener = bind(listen, "--listen").await?;
    let metrics = Metrics::new();
    if let Some(address) = metrics_listen {
        let listener = bind(address, "--metrics-listen").await?;
        tokio::spawn(telemetry::serve_metrics(listener, metrics.registry()));
    }
    let options =
        Options { data_dir, cache_bytes: cache_mib << 20, reserved_bytes: reserved_mib << 20 };
    let counted = metrics.clone();
    let opening = tokio::task::spawn_blocking(move || server::open_counted(&options, counted));
    let opening = async { opening.await? };
    let stopping = Stopping {
        notice: Duration::from_secs(args.shutdown_notice_seconds),
        grace: Duration::from_secs(args.grace_seconds),
    };
    let signals = (first.cancelled(), second.cancelled());
    server::run((listener, metrics), opening, stopping, signals).await
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
