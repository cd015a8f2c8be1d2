//! The addresses of the history services, and how to authenticate to them.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use axum::http::Uri;
use backscroll_tls::{ClientConfig, ClientFiles, Token, Watched};

/// The addresses of the history services, and how to authenticate to them.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// URLs of the form `http://host:port` or `https://host:port`. Every address of a host is an instance.
    pub urls: Vec<Uri>,
    /// The TLS configuration for `https` URLs; required for them.
    pub tls: Option<Arc<Watched<ClientConfig>>>,
    /// The token that is sent with every call.
    pub token: Option<Arc<Watched<Token>>>,
}

impl From<Uri> for HistoryOptions {
    fn from(url: Uri) -> Self {
        Self { urls: vec![url], tls: None, token: None }
    }
}

/// The options, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "History service")]
pub struct HistoryFlags {
    /// The history services: http://HOST:PORT or https://HOST:PORT. All addresses of a host are used, and
    /// looked up again every 30 seconds. Separate several with commas.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY",
        value_name = "URL",
        required = true,
        value_delimiter = ',',
        value_parser = plain_url
    )]
    pub history: Vec<Uri>,

    /// The authority that signs the history services' certificates, as PEM. Needed for https.
    #[arg(long, env = "BACKSCROLL_GATEWAY_HISTORY_CA", value_name = "FILE")]
    pub history_ca: Option<PathBuf>,

    /// The gateway's own certificate for the history services, as PEM.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY_CERT",
        value_name = "FILE",
        requires_all = ["history_ca", "history_key"]
    )]
    pub history_cert: Option<PathBuf>,

    /// The private key of --history-cert, as PEM.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY_KEY",
        value_name = "FILE",
        requires = "history_cert"
    )]
    pub history_key: Option<PathBuf>,

    /// A file with the token that the history services require.
    #[arg(long, env = "BACKSCROLL_GATEWAY_HISTORY_TOKEN_FILE", value_name = "FILE")]
    pub history_token_file: Option<PathBuf>,
}

impl HistoryFlags {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid, or when one is missing for `https`.
    pub fn into_options(self) -> anyhow::Result<HistoryOptions> {
        let Self { history, history_ca, history_cert, history_key, history_token_file } = self;
        let identity = history_cert.zip(history_key);
        let tls = history_ca.map(|ca| ClientFiles { ca, identity }.watched());
        let tls = tls.transpose().context("cannot use the files for the history service")?;
        let needs_tls = history.iter().any(|it| it.scheme_str() == Some("https"));
        ensure!(
            tls.is_some() || !needs_tls,
            "--history must have --history-ca if it has an https URL"
        );
        let token = history_token_file.map(Token::watched).transpose();
        Ok(HistoryOptions { urls: history, tls, token: token.context("--history-token-file")? })
    }
}

/// Parses a URL without a path.
pub(crate) fn plain_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.trim().parse().map_err(|error| format!("{error}"))?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_http || url.host().is_none_or(str::is_empty) {
        return Err("expected http://HOST:PORT or https://HOST:PORT".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err("expected http://HOST:PORT, without a path".to_owned());
    }
    Ok(url)
}
