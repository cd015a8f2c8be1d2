//! Where the history services are, and how we show them who we are.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use axum::http::Uri;
use backscroll_tls::{ClientConfig, ClientFiles, Token, Watched};

/// Where the history services are, and how we show them who we are.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// `http://host:port` or `https://host:port`; every address of a host is one.
    pub urls: Vec<Uri>,
    /// Needed for `https`.
    pub tls: Option<Arc<Watched<ClientConfig>>>,
    /// Shown with every question.
    pub token: Option<Arc<Watched<Token>>>,
}

impl From<Uri> for HistoryOptions {
    fn from(url: Uri) -> Self {
        Self { urls: vec![url], tls: None, token: None }
    }
}

/// The same, as flags.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "History service")]
pub struct HistoryFlags {
    /// Where the history services are: http://HOST:PORT or https://HOST:PORT. All addresses of a
    /// host are used, and looked up again every half minute
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY",
        value_name = "URL",
        required = true,
        value_delimiter = ',',
        value_parser = history_url
    )]
    pub history: Vec<Uri>,

    /// Who signs the history services' certificates, PEM; needed for https
    #[arg(long, env = "BACKSCROLL_GATEWAY_HISTORY_CA", value_name = "FILE")]
    pub history_ca: Option<PathBuf>,

    /// Our own certificate for the history services, PEM
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY_CERT",
        value_name = "FILE",
        requires_all = ["history_ca", "history_key"]
    )]
    pub history_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HISTORY_KEY",
        value_name = "FILE",
        requires = "history_cert"
    )]
    pub history_key: Option<PathBuf>,

    /// A file with the token that the history services want to see
    #[arg(long, env = "BACKSCROLL_GATEWAY_HISTORY_TOKEN_FILE", value_name = "FILE")]
    pub history_token_file: Option<PathBuf>,
}

impl HistoryFlags {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, is not what it should be, or is missing.
    pub fn into_options(self) -> anyhow::Result<HistoryOptions> {
        let Self { history, history_ca, history_cert, history_key, history_token_file } = self;
        let identity = history_cert.zip(history_key);
        let tls = history_ca.map(|ca| ClientFiles { ca, identity }.watched());
        let tls = tls.transpose().context("cannot use the files for the history service")?;
        let needs_tls = history.iter().any(|it| it.scheme_str() == Some("https"));
        ensure!(
            tls.is_some() || !needs_tls,
            "for a history service at https, --history-ca must say who signs its certificate"
        );
        let token = history_token_file.map(Token::watched).transpose();
        Ok(HistoryOptions { urls: history, tls, token: token.context("--history-token-file")? })
    }
}

fn history_url(text: &str) -> Result<Uri, String> {
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
