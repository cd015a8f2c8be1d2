//! `backscroll serve`.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use backscroll_tls::{ServerFiles, Token};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    rpc::Require,
    server::{self, Callers},
    store::Options,
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
SIGTERM or SIGINT stops it: health turns NOT_SERVING, requests under way are finished, everything
is flushed, exit code 0. It opens no connection to anywhere.")]
pub(super) struct Args {
    /// Where the store lies; made if it is not there. One process at a time.
    #[arg(long, env = "BACKSCROLL_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// The address to serve gRPC on.
    #[arg(long, env = "BACKSCROLL_LISTEN", default_value = "127.0.0.1:8470", value_name = "ADDR")]
    listen: SocketAddr,

    /// Memory for the store's page cache, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,

    /// Space on the volume that is never written to, in MiB. With less free, no events are taken,
    /// reads go on, and the ingest service is NOT_SERVING until there is more.
    #[arg(long, env = "BACKSCROLL_RESERVED_MIB", default_value_t = 256, value_name = "MIB")]
    reserved_mib: u64,

    /// Serve with TLS: our certificate, PEM. Read again when it changes.
    #[arg(long, env = "BACKSCROLL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its key, PEM.
    #[arg(long, env = "BACKSCROLL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Take callers only who show a certificate signed by this authority, PEM. Needs --tls-cert.
    #[arg(long, env = "BACKSCROLL_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,

    /// Take callers only who show the token in this file, 16 bytes or more.
    #[arg(long, env = "BACKSCROLL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// How long requests under way may take to finish when stopping, in seconds.
    #[arg(long, env = "BACKSCROLL_GRACE_SECONDS", default_value_t = 20, value_name = "SECONDS")]
    grace_seconds: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { data_dir, listen, cache_mib, reserved_mib, grace_seconds, .. } = &args;
    let callers = args.callers()?;
    let (mut terminate, mut interrupt) = stop_signals()?;
    let listener = TcpListener::bind(*listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; give another --listen"))?;
    let options = Options {
        data_dir: data_dir.clone(),
        cache_bytes: cache_mib << 20,
        reserved_bytes: reserved_mib << 20,
    };
    let cx = tokio::task::spawn_blocking(move || server::open(&options)).await??;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let grace = Duration::from_secs(*grace_seconds);
    server::serve_callers(cx, (listener, callers), grace, stop).await
}

impl Args {
    /// Who may call, read from the files. Needs a runtime.
    fn callers(&self) -> anyhow::Result<Callers> {
        let Self { tls_cert, tls_key, client_ca, token_file, .. } = self.clone();
        let certificate = client_ca.is_some();
        let files = tls_cert.zip(tls_key);
        let tls = files.map(|(cert, key)| ServerFiles { cert, key, client_ca }.watched());
        let tls = tls.transpose().context("cannot use the files for TLS")?;
        let token = token_file.map(Token::watched).transpose().context("--token-file")?;
        if let Some(tls) = &tls {
            tls.watch();
        }
        if let Some(token) = &token {
            token.watch();
        }
        Ok(Callers { tls, require: Require { certificate, token } })
    }
}

/// Heard from the start, so that a signal during the opening is not lost.
fn stop_signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}
