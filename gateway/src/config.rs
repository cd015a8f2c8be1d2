//! Flags and environment variables. Everything is validated here.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use backscroll_telemetry::LogFormat;
use backscroll_tls::ServerFiles;
use clap::Parser;

use crate::{
    clock::Clock,
    fallback::FallbackFlags,
    history::HistoryFlags,
    keys::{FetchFlags, PinnedKeys},
    limits::LimitFlags,
    server::Options,
    server_name::ServerName,
    shadow::ShadowFlags,
};

const EXAMPLES: &str = "\
Examples:
  Answer for example.org, with a history service on the same machine:
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470

  The same, configured by environment variables, reachable from other machines:
    export BACKSCROLL_GATEWAY_SERVER_NAME=example.org
    export BACKSCROLL_GATEWAY_HISTORY=http://history:8470
    export BACKSCROLL_GATEWAY_NOTARY=matrix.org
    backscroll-gateway --listen 0.0.0.0:8448

  Pin the keys of one server, and fetch no others:
    curl -s https://matrix.example.net/_matrix/key/v2/server \\
      | jq '{(.server_name): .}' > keys.json
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470 \\
        --pinned-keys keys.json --fetch-keys false

  Beside Synapse: it answers what the history service cannot, and gets all other requests of the
  federation API as well, so that the gateway may stand in front of its federation listener:
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470 \\
        --fallback http://127.0.0.1:8008 --pass-through true --trusted-proxy 127.0.0.1
    curl -i http://127.0.0.1:8448/_matrix/federation/v1/version   # X-Backscroll: synapse;reason=...

  Beside a Synapse: it answers everything, and its answers are compared with those of the history
  service. Print the result:
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470 \\
        --fallback http://127.0.0.1:8008 --shadow answer=synapse --metrics-listen 127.0.0.1:9471
    backscroll-gateway shadow-report --url http://127.0.0.1:9471

  Check that it runs, and that it reaches the history service:
    curl -i http://127.0.0.1:8448/healthz
    curl -i http://127.0.0.1:8448/readyz

Route these paths to the gateway, and everything else to the homeserver; with --pass-through true,
also everything else below /_matrix/federation/ and /_matrix/key/. The request target must be
passed on unchanged, or signatures become invalid (nginx: proxy_pass without a path; Apache:
nocanon):
    /_matrix/federation/v1/backfill/
    /_matrix/federation/v1/get_missing_events/

SIGTERM and SIGINT stop the gateway after the requests under way are finished. A second signal stops
it at once.";

/// Answers the Matrix federation's /backfill and /get_missing_events for a homeserver.
///
/// The gateway authenticates requests and passes them on to a Backscroll history service.
#[derive(Clone, Debug, Parser)]
#[command(name = "backscroll-gateway", version, after_help = EXAMPLES)]
pub struct Config {
    /// The name of the homeserver, as in its users' ids.
    #[arg(long, env = "BACKSCROLL_GATEWAY_SERVER_NAME", value_name = "NAME")]
    pub server_name: ServerName,

    /// The history services, and how to authenticate to them.
    #[command(flatten)]
    pub history: HistoryFlags,

    /// The homeserver, and when it is asked.
    #[command(flatten)]
    pub beside: FallbackFlags,

    /// Which answers of the homeserver are compared.
    #[command(flatten)]
    pub shadow: ShadowFlags,

    /// The address to listen on. Serves HTTP/2 and HTTP/1.1, in the clear unless --tls-cert is given.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8448"
    )]
    pub listen: SocketAddr,

    /// The certificate to serve TLS with, and its chain, as PEM. Read again when it changes.
    #[arg(long, env = "BACKSCROLL_GATEWAY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, as PEM.
    #[arg(long, env = "BACKSCROLL_GATEWAY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Keys of other servers that are never fetched: a JSON object from server name to that server's
    /// /_matrix/key/v2/server response.
    #[arg(long, env = "BACKSCROLL_GATEWAY_PINNED_KEYS", value_name = "FILE")]
    pub pinned_keys: Option<PathBuf>,

    /// How the keys of other servers are fetched.
    #[command(flatten)]
    pub fetching: FetchFlags,

    /// Longest time for an answer, in seconds, from when the request is received completely. Other
    /// servers give up after 60.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_REQUEST_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = Options::REQUEST_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS)
    )]
    pub request_timeout_seconds: u64,

    /// Limits on clients and servers.
    #[command(flatten)]
    pub limits: LimitFlags,

    /// How long to accept requests after a stop signal while /readyz responds with 503, in seconds.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SHUTDOWN_NOTICE_SECONDS",
        value_name = "SECONDS",
        default_value_t = Options::SHUTDOWN_NOTICE.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS)
    )]
    pub shutdown_notice_seconds: u64,

    /// Longest time for requests under way to finish when stopping, in seconds.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_DRAIN_SECONDS",
        value_name = "SECONDS",
        default_value_t = Options::DRAIN_TIMEOUT.as_secs(),
        value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS)
    )]
    pub drain_seconds: u64,

    /// The address to serve metrics on, as /metrics over HTTP. Without it, none are served.
    #[arg(long, env = "BACKSCROLL_GATEWAY_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// The collector to send traces to, by OTLP over gRPC: http://HOST:4317. Without it, none are
    /// sent.
    #[arg(long, env = "BACKSCROLL_GATEWAY_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// What to log: a level, or a filter such as "info,backscroll_gateway=debug".
    #[arg(long, env = "BACKSCROLL_GATEWAY_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// The format of log lines.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// Longer times are mistakes.
const MAX_SECONDS: u64 = 24 * 60 * 60;

impl Config {
    /// Reads the files that the flags name. Logs a warning about settings with which no request can
    /// be authenticated.
    ///
    /// # Errors
    /// When a file cannot be read, or is not valid.
    pub fn into_options(self) -> anyhow::Result<Options> {
        let clock = Clock::system();
        let keys = match &self.pinned_keys {
            Some(path) => fs::read(path)
                .map_err(anyhow::Error::from)
                .and_then(|bytes| Ok(PinnedKeys::from_json(&bytes)?))
                .with_context(|| format!("cannot use --pinned-keys {}", path.display()))?,
            None => PinnedKeys::default(),
        };
        for left_out in keys.left_out() {
            tracing::warn!("--pinned-keys: left out: {left_out}");
        }
        let fetching = self.fetching.into_fetching()?;
        if keys.is_empty() && fetching.is_none() {
            tracing::warn!(
                "no keys are pinned and none are fetched: no request can be authenticated, and \
                 each is answered with 401 (see --pinned-keys and --fetch-keys)"
            );
        }
        for server in keys.expired(clock.now_ms()) {
            tracing::warn!(%server, "the pinned keys of this server have expired");
        }
        let files = self.tls_cert.zip(self.tls_key);
        let tls = files
            .map(|(cert, key)| ServerFiles { cert, key, client_ca: None }.watched_for_http())
            .transpose()
            .context("cannot use --tls-cert and --tls-key")?;
        Ok(Options {
            tls,
            fallback: self.beside.into_options()?,
            shadow: self.shadow.into_options(),
            keys,
            fetching,
            clock,
            request_timeout: Duration::from_secs(self.request_timeout_seconds),
            limits: self.limits.into(),
            shutdown_notice: Duration::from_secs(self.shutdown_notice_seconds),
            drain_timeout: Duration::from_secs(self.drain_seconds),
            ..Options::with_history(self.server_name, self.history.into_options()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(flags: &[&str]) -> Result<Config, clap::Error> {
        let needed = ["backscroll-gateway", "--server-name", "a.example"];
        Config::try_parse_from(needed.iter().chain(flags))
    }

    #[test]
    fn the_command_line_is_valid_and_every_flag_has_a_variable() {
        Config::command().debug_assert();
        for flag in Config::command().get_arguments() {
            let Some(long) = flag.get_long() else { panic!("{flag} is positional") };
            let variable = format!("BACKSCROLL_GATEWAY_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }

    #[test]
    fn history_urls_have_no_path() {
        for good in [
            "http://127.0.0.1:8470",
            "http://history:8470/",
            "http://[::1]:8470",
            "https://history",
        ] {
            assert!(read(&["--history", good]).is_ok(), "{good}");
        }
        for bad in
            ["history:8470", "ftp://history", "http://", "/x", "", "http://h/x", "http://h?x"]
        {
            assert!(read(&["--history", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_whole_seconds_of_at_most_a_day() {
        for good in ["1", "86400"] {
            assert!(read(&["--history", "http://h", "--drain-seconds", good]).is_ok(), "{good}");
        }
        for bad in ["", "-1", "1.5", "NaN", "86401", "10s"] {
            assert!(read(&["--history", "http://h", "--drain-seconds", bad]).is_err(), "{bad}");
        }
    }
}
