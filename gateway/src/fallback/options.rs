//! The homeserver, and when it is asked, as options and flags.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::http::Uri;
use backscroll_tls::{ClientConfig, Watched, http_client};
use clap::ArgAction;

use crate::history::plain_url;

/// The homeserver, and when it is asked.
#[derive(Clone, Debug)]
pub struct FallbackOptions {
    /// The address of the homeserver: `http://host:port` or `https://host:port`.
    pub url: Uri,
    /// The TLS configuration; required for an `https` URL.
    pub tls: Option<Arc<Watched<ClientConfig>>>,
    /// How long the history service may take for an answer. After that the homeserver is asked.
    pub history_time: Duration,
    /// The greatest lag of the feeder at which the history service answers.
    pub max_lag: Duration,
    /// How long the history service waits for the next tick of the feeder before it gives a negative
    /// answer that is not final.
    pub max_wait: Duration,
    /// Whether the homeserver gets the first request of each server in a minute.
    pub first_of_origin: bool,
    /// Whether all other federation endpoints are passed through.
    pub pass_through: bool,
}

impl FallbackOptions {
    /// The default of [`Self::history_time`].
    pub const HISTORY_TIME: Duration = Duration::from_secs(2);
    /// The default of [`Self::max_lag`].
    pub const MAX_LAG: Duration = Duration::from_secs(5);
    /// The default of [`Self::max_wait`].
    pub const MAX_WAIT: Duration = Duration::from_millis(300);
}

impl From<Uri> for FallbackOptions {
    fn from(url: Uri) -> Self {
        Self {
            url,
            tls: None,
            history_time: Self::HISTORY_TIME,
            max_lag: Self::MAX_LAG,
            max_wait: Self::MAX_WAIT,
            first_of_origin: true,
            pass_through: false,
        }
    }
}

/// The options, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Beside a homeserver")]
pub struct FallbackFlags {
    /// The homeserver: http://HOST:PORT or https://HOST:PORT. It answers what the history service cannot:
    /// when that is away, slow or behind, for rooms that it does not hold, and for what it does not know
    /// yet. Every answer but 403s then has an X-Backscroll header that says who gave it.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK",
        value_name = "URL",
        value_parser = plain_url
    )]
    pub fallback: Option<Uri>,

    /// The authority that signs the homeserver's certificate, as PEM. No other is accepted. Without it,
    /// the authorities that browsers trust are.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK_CA",
        value_name = "FILE",
        requires = "fallback"
    )]
    pub fallback_ca: Option<PathBuf>,

    /// How long the history service may take for an answer, in milliseconds. After that the homeserver is
    /// asked.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK_AFTER_MS",
        value_name = "MS",
        default_value_t = ms(FallbackOptions::HISTORY_TIME),
        value_parser = clap::value_parser!(u64).range(1..=MAX_MS),
        requires = "fallback"
    )]
    pub fallback_after_ms: u64,

    /// The greatest lag of the feeder behind the homeserver at which the history service answers, in
    /// milliseconds.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_LAG_MS",
        value_name = "MS",
        default_value_t = ms(FallbackOptions::MAX_LAG),
        value_parser = clap::value_parser!(u64).range(1..=MAX_MS),
        requires = "fallback"
    )]
    pub max_lag_ms: u64,

    /// How long a negative answer waits for the feeder to confirm it, in milliseconds: at most 2000.
    /// After that the homeserver is asked.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK_WAIT_MS",
        value_name = "MS",
        default_value_t = ms(FallbackOptions::MAX_WAIT),
        value_parser = clap::value_parser!(u64).range(..=2_000),
        requires = "fallback"
    )]
    pub fallback_wait_ms: u64,

    /// Whether the homeserver gets the first request of each server in a minute. Synapse sends to a
    /// server that it could not reach again as soon as it gets a valid request of that server.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK_FIRST_OF_ORIGIN",
        value_name = "BOOL",
        default_value = "true",
        action = ArgAction::Set,
        requires = "fallback"
    )]
    pub fallback_first_of_origin: bool,

    /// Whether the homeserver gets all other requests below /_matrix/federation/ and /_matrix/key/, so
    /// that the gateway may stand in front of it. Without it they are answered with 404.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_PASS_THROUGH",
        value_name = "BOOL",
        default_value = "false",
        action = ArgAction::Set,
        requires = "fallback"
    )]
    pub pass_through: bool,
}

/// Longer times are mistakes.
const MAX_MS: u64 = 60 * 60 * 1_000;

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl FallbackFlags {
    /// Reads the file of the authority. `None` if there is no homeserver to ask.
    ///
    /// # Errors
    /// When the file cannot be read or is not valid.
    pub fn into_options(self) -> anyhow::Result<Option<FallbackOptions>> {
        let Some(url) = self.fallback else { return Ok(None) };
        let tls = match url.scheme_str() {
            Some("https") => Some(http_client(self.fallback_ca).context("--fallback-ca")?),
            _ => None,
        };
        Ok(Some(FallbackOptions {
            url,
            tls,
            history_time: Duration::from_millis(self.fallback_after_ms),
            max_lag: Duration::from_millis(self.max_lag_ms),
            max_wait: Duration::from_millis(self.fallback_wait_ms),
            first_of_origin: self.fallback_first_of_origin,
            pass_through: self.pass_through,
        }))
    }
}
