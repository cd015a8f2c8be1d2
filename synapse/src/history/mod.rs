//! The client of the history service.
//!
//! [`HistoryOptions::connect`] opens a connection; [`feed`] makes this process the feeder; then
//! [`History::with_lease`] adds the lease to every call, so that a follower that is no longer the feeder
//! cannot write.

pub(crate) mod append;
pub(crate) mod feed;
pub(crate) mod rooms;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll_tls::{ClientConfig, ClientFiles, Dialer, Token, Watched};
use tonic::{
    Code, Request, Response, Status,
    codegen::http::Uri,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Endpoint},
};
use tonic_types::StatusExt as _;
use tower::service_fn;

use crate::proto::v1::{
    admin_service_client::AdminServiceClient, feeder_service_client::FeederServiceClient,
    history_service_client::HistoryServiceClient, ingest_service_client::IngestServiceClient,
    key_service_client::KeyServiceClient,
};

/// The metadata with the lease of the feeder.
const LEASE: &str = "backscroll-lease";
/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the connection is checked, and how long the service may take to answer that.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Where the history service is, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "History service")]
pub(crate) struct HistoryFlags {
    /// The history service: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_HISTORY", value_name = "URL")]
    pub(crate) history: Uri,

    /// The authority that signed the certificate of the history service, PEM. Needed for https.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_HISTORY_CA", value_name = "FILE")]
    pub(crate) history_ca: Option<PathBuf>,

    /// Our own certificate for the history service, PEM.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_HISTORY_CERT",
        value_name = "FILE",
        requires_all = ["history_ca", "history_key"]
    )]
    pub(crate) history_cert: Option<PathBuf>,

    /// The private key of --history-cert, PEM.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_HISTORY_KEY",
        value_name = "FILE",
        requires = "history_cert"
    )]
    pub(crate) history_key: Option<PathBuf>,

    /// A file with the token that the history service requires. Not the token of gateways, which does
    /// not allow writing.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_HISTORY_TOKEN_FILE", value_name = "FILE")]
    pub(crate) history_token_file: Option<PathBuf>,
}

/// Where the history service is, and how to authenticate to it.
#[derive(Clone, Debug)]
pub(crate) struct HistoryOptions {
    url: Uri,
    tls: Option<Arc<Watched<ClientConfig>>>,
    token: Option<Arc<Watched<Token>>>,
}

/// Clients of the history service, which share a connection.
#[derive(Clone)]
pub(crate) struct History {
    channel: transport::Channel,
    token: Option<AsciiMetadataValue>,
    /// What a feeder reports.
    pub(crate) feeder: FeederServiceClient<Channel>,
    /// Writes rooms.
    pub(crate) ingest: IngestServiceClient<Channel>,
    /// Reads rooms.
    pub(crate) history: HistoryServiceClient<Channel>,
    /// Lists of the whole store.
    pub(crate) admin: AdminServiceClient<Channel>,
    /// The keys of servers.
    pub(crate) keys: KeyServiceClient<Channel>,
}

/// A connection that adds our token and our lease to each request.
pub(crate) type Channel = InterceptedService<transport::Channel, AddMetadata>;

/// Adds our token and our lease to each request, if there are any.
#[derive(Clone)]
pub(crate) struct AddMetadata {
    token: Option<AsciiMetadataValue>,
    lease: Option<AsciiMetadataValue>,
}

impl Interceptor for AddMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE, lease.clone());
        }
        Ok(request)
    }
}

impl HistoryFlags {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid, or when one is missing for `https`.
    pub(crate) fn into_options(self) -> anyhow::Result<HistoryOptions> {
        let Self { history: url, history_ca, history_cert, history_key, history_token_file } = self;
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => anyhow::bail!("--history must be http://HOST:PORT or https://HOST:PORT"),
        };
        ensure!(url.host().is_some_and(|it| !it.is_empty()), "--history has no host");
        ensure!(!is_tls || history_ca.is_some(), "--history must have --history-ca for https");
        let identity = history_cert.zip(history_key);
        let tls = history_ca.filter(|_| is_tls).map(|ca| ClientFiles { ca, identity }.watched());
        let token = history_token_file.map(Token::watched).transpose();
        Ok(HistoryOptions {
            url,
            tls: tls.transpose().context("cannot use the files for the history service")?,
            token: token.context("--history-token-file")?,
        })
    }
}

impl HistoryOptions {
    /// Opens a connection. Files that have changed are read again first.
    ///
    /// # Errors
    /// When the service does not answer.
    pub(crate) async fn connect(&self) -> anyhow::Result<History> {
        if let Some(tls) = &self.tls {
            tls.look();
        }
        if let Some(token) = &self.token {
            token.look();
        }
        let host = self.url.host().unwrap_or_default().to_owned();
        let port = self.url.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let dialer = Arc::new(Dialer { tls: self.tls.clone(), host });
        let dial = service_fn(move |_| {
            let dialer = Arc::clone(&dialer);
            let host = dialer.host.trim_start_matches('[').trim_end_matches(']').to_owned();
            async move { dialer.dial((host, port)).await }
        });
        let authority = self.url.authority().map_or("", |it| it.as_str());
        // The dialer does TLS, so tonic gets a URL without it.
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_connection_window_size(4 * 1024 * 1024)
            .initial_stream_window_size(2 * 1024 * 1024);
        let channel = endpoint
            .connect_with_connector(dial)
            .await
            .with_context(|| format!("cannot connect to the history service at {}", self.url))?;
        let token = self.token.as_ref().map(|it| it.get().header().parse()).transpose()?;
        Ok(History::new(channel, token, None))
    }
}

impl History {
    fn new(
        channel: transport::Channel,
        token: Option<AsciiMetadataValue>,
        lease: Option<AsciiMetadataValue>,
    ) -> Self {
        let metadata = AddMetadata { token: token.clone(), lease };
        let with = InterceptedService::new(channel.clone(), metadata);
        Self {
            channel,
            token,
            feeder: FeederServiceClient::new(with.clone()),
            ingest: IngestServiceClient::new(with.clone()),
            history: HistoryServiceClient::new(with.clone()),
            admin: AdminServiceClient::new(with.clone()),
            keys: KeyServiceClient::new(with),
        }
    }

    /// The same clients on the same connection, which send a lease with each call.
    ///
    /// # Errors
    /// When the lease cannot be sent as metadata.
    pub(crate) fn with_lease(&self, lease_id: &str) -> anyhow::Result<Self> {
        let lease = lease_id.parse().context("the history service granted an invalid lease")?;
        Ok(Self::new(self.channel.clone(), self.token.clone(), Some(lease)))
    }
}

/// An error that the history service returned: its message, with its reason in parentheses.
#[derive(Debug, thiserror::Error)]
#[error("the history service: {message}")]
pub(crate) struct HistoryError {
    message: String,
    /// The gRPC status code.
    pub(crate) code: Code,
    /// The reason of `google.rpc.ErrorInfo`; empty if there is none.
    pub(crate) reason: String,
}

impl From<Status> for HistoryError {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|it| it.reason).unwrap_or_default();
        let message = if reason.is_empty() {
            format!("{} ({:?})", status.message(), status.code())
        } else {
            format!("{} ({reason})", status.message())
        };
        Self { message, code: status.code(), reason }
    }
}

/// The message of a response.
///
/// # Errors
/// When the service returned an error.
pub(crate) fn message<T>(response: Result<Response<T>, Status>) -> Result<T, HistoryError> {
    Ok(response?.into_inner())
}
