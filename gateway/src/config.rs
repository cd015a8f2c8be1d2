//! Flags and environment, read once. The whole surface is here; nothing below re-checks it.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use axum::http::Uri;
use backscroll_telemetry::LogFormat;
use backscroll_tls::ServerFiles;
use clap::Parser;

use crate::{
    clock::Clock,
    history::HistoryFlags,
    keys::{FetchFlags, PinnedKeys},
    limits::LimitOptions,
    server::Options,
    server_name::ServerName,
};

const EXAMPLES: &str = "\
Examples:
  Answer for example.org, from a history service on the same machine:
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470

  The same, configured by the environment, reachable from other machines:
    export BACKSCROLL_GATEWAY_SERVER_NAME=example.org
    export BACKSCROLL_GATEWAY_HISTORY=http://history:8470
    export BACKSCROLL_GATEWAY_NOTARY=matrix.org
    backscroll-gateway --listen 0.0.0.0:8448

  Pin the keys of a server, and fetch none:
    curl -s https://matrix.example.net/_matrix/key/v2/server \\
      | jq '{(.server_name): .}' > keys.json
    backscroll-gateway --server-name example.org --history http://127.0.0.1:8470 \\
        --pinned-keys keys.json --fetch-keys false

  Is it alive, and does it get answers from the history service?
    curl -i http://127.0.0.1:8448/healthz
    curl -i http://127.0.0.1:8448/readyz

Route these paths here, everything else to the homeserver. The request target must arrive exactly
as the peer sent it, or signatures do not fit (nginx: proxy_pass without a path; Apache: nocanon):
    /_matrix/federation/v1/backfill/
    /_matrix/federation/v1/get_missing_events/

SIGTERM and SIGINT finish the requests under way; a second one does not wait for them.";

/// Answers the Matrix federation's /backfill and /get_missing_events for a homeserver.
///
/// Authenticates who asks and passes the question on to a Backscroll history service.
#[derive(Clone, Debug, Parser)]
#[command(name = "backscroll-gateway", version, after_help = EXAMPLES)]
pub struct Config {
    /// The homeserver's name, as in its users' ids
    #[arg(long, env = "BACKSCROLL_GATEWAY_SERVER_NAME", value_name = "NAME")]
    pub server_name: ServerName,

    /// Where the history services are, and how we show them who we are
    #[command(flatten)]
    pub history: HistoryFlags,

    /// Where to listen: HTTP/2 and HTTP/1.1, in the clear unless --tls-cert is given
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8448"
    )]
    pub listen: SocketAddr,

    /// Our certificate for those who connect, and those between it and the authority, PEM; read
    /// again when it changes
    #[arg(long, env = "BACKSCROLL_GATEWAY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, env = "BACKSCROLL_GATEWAY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Keys of other servers that are never fetched: a JSON object, server name to that server's
    /// /_matrix/key/v2/server answer
    #[arg(long, env = "BACKSCROLL_GATEWAY_PINNED_KEYS", value_name = "FILE")]
    pub pinned_keys: Option<PathBuf>,

    /// How the keys of others are got
    #[command(flatten)]
    pub fetching: FetchFlags,

    /// How long an answer may take once the request has come whole, waiting included; peers give up
    /// after 60
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_REQUEST_TIMEOUT",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = seconds
    )]
    pub request_timeout: Duration,

    /// How much at once, and for whom
    #[command(flatten)]
    pub limits: LimitOptions,

    /// How long to go on accepting after a signal, while /readyz says 503
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SHUTDOWN_NOTICE",
        value_name = "SECONDS",
        default_value = "0",
        value_parser = seconds
    )]
    pub shutdown_notice: Duration,

    /// How long requests under way may take to finish after that
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_DRAIN_TIMEOUT",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = seconds
    )]
    pub drain_timeout: Duration,

    /// Where to serve metrics, as /metrics over HTTP; left out, none are
    #[arg(long, env = "BACKSCROLL_GATEWAY_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,

    /// Send traces to this collector, OTLP over gRPC: http://HOST:4317
    #[arg(long, env = "BACKSCROLL_GATEWAY_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// What to log: a level, or a filter such as "info,backscroll_gateway=debug"
    #[arg(long, env = "BACKSCROLL_GATEWAY_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How to log
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

impl Config {
    /// Reads the files that are named, and says what cannot work with them.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or holds something that should not be there.
    pub fn into_options(self) -> anyhow::Result<Options> {
        let clock = Clock::system();
        let keys = match &self.pinned_keys {
            Some(path) => fs::read(path)
                .map_err(anyhow::Error::from)
                .and_then(|bytes| Ok(PinnedKeys::from_json(&bytes)?))
                .with_context(|| format!("cannot take the pinned keys from {}", path.display()))?,
            None => PinnedKeys::default(),
        };
        for left_out in keys.left_out() {
            tracing::warn!("--pinned-keys: left out: {left_out}");
        }
        let fetching = self.fetching.into_fetching()?;
        if keys.is_empty() && fetching.is_none() {
            tracing::warn!(
                "no keys are pinned and none are fetched: nobody can be authenticated, every \
                 request will hear 401 (see --pinned-keys and --fetch-keys)"
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
            keys,
            fetching,
            clock,
            request_timeout: self.request_timeout,
            limits: self.limits,
            shutdown_notice: self.shutdown_notice,
            drain_timeout: self.drain_timeout,
            history: self.history.into_options()?,
            ..Options::new(self.server_name, Uri::default())
        })
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>().map(Duration::try_from_secs_f64) {
        // Longer than a day is a mistake, and may not fit a timer.
        Ok(Ok(duration)) if duration <= Duration::from_hours(24) => Ok(duration),
        _ => Err("expected a number of seconds, at most 86400".to_owned()),
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
    fn the_command_line_is_sound_and_every_flag_has_a_variable() {
        Config::command().debug_assert();
        for flag in Config::command().get_arguments() {
            let Some(long) = flag.get_long() else { panic!("{flag} is positional") };
            let variable = format!("BACKSCROLL_GATEWAY_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }

    #[test]
    fn the_history_service_is_a_plain_address() {
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
    fn durations_are_seconds() {
        let read = |text| seconds(text).ok();
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read("1.5"), Some(Duration::from_millis(1_500)));
        for bad in ["", "-1", "NaN", "inf", "1e300", "86401", "10s"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
