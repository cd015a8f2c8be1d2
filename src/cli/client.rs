//! Connects to a running service, and turns its errors into messages for people.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use backscroll_tls::{ClientFiles, Dialer, Token};
use tonic::{
    Code, Request, Response, Status,
    codegen::http::Uri,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Endpoint},
};
use tonic_types::StatusExt as _;
use tower::service_fn;

use super::ServerArgs;
use crate::proto::v1::{
    admin_service_client::AdminServiceClient, feeder_service_client::FeederServiceClient,
    history_service_client::HistoryServiceClient, ingest_service_client::IngestServiceClient,
};

/// Clients of one service, which share a connection.
pub(super) struct Clients {
    pub(super) history: HistoryServiceClient<Channel>,
    pub(super) ingest: IngestServiceClient<Channel>,
    pub(super) admin: AdminServiceClient<Channel>,
    pub(super) feeder: FeederServiceClient<Channel>,
}

/// A connection that adds our token to each request.
pub(super) type Channel = InterceptedService<transport::Channel, AddToken>;

/// Adds a token to each request, if there is one.
#[derive(Clone)]
pub(super) struct AddToken(Option<AsciiMetadataValue>);

impl Interceptor for AddToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub(super) async fn connect(server: &ServerArgs) -> anyhow::Result<Clients> {
    let channel = channel(server).await?;
    Ok(Clients {
        history: HistoryServiceClient::new(channel.clone()),
        ingest: IngestServiceClient::new(channel.clone()),
        admin: AdminServiceClient::new(channel.clone()),
        feeder: FeederServiceClient::new(channel),
    })
}

pub(super) async fn channel(args: &ServerArgs) -> anyhow::Result<Channel> {
    let ServerArgs { server, server_ca, cert, key, token_file } = args.clone();
    let not_a_url = || format!("`{server}` is not a URL such as http://127.0.0.1:8470");
    let url: Uri = server.parse().with_context(not_a_url)?;
    let authority = url.authority().with_context(not_a_url)?;
    let is_tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!(not_a_url()),
    };
    ensure!(!is_tls || server_ca.is_some(), "https needs --server-ca");
    let identity = cert.zip(key);
    let tls = server_ca.filter(|_| is_tls).map(|ca| ClientFiles { ca, identity }.watched());
    let dialer = Arc::new(Dialer { tls: tls.transpose()?, host: authority.host().to_owned() });
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let dial = service_fn(move |_| {
        let dialer = Arc::clone(&dialer);
        let host = dialer.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        async move { dialer.dial((host, port)).await }
    });
    // The dialer does TLS, so tonic gets a URL without it.
    let plain = Endpoint::from_shared(format!("http://{authority}")).with_context(not_a_url)?;
    let channel = plain.connect_with_connector(dial).await.with_context(|| {
        format!(
            "cannot connect to the service at {server}; start it with `backscroll serve`, or give \
             another --server"
        )
    })?;
    let token = token_file.map(Token::watched).transpose().context("--token-file")?;
    let token = token.map(|it| it.get().header().parse::<AsciiMetadataValue>()).transpose()?;
    Ok(InterceptedService::new(channel, AddToken(token)))
}

/// An error that the service returned, as a message for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct ServiceError {
    message: String,
    pub(super) code: Code,
}

/// Turns a status into a message, with its reason in parentheses.
pub(super) fn service_error(status: &Status) -> anyhow::Error {
    let reason = status.get_details_error_info().map(|it| format!(" ({})", it.reason));
    let message = format!("{}{}", status.message(), reason.unwrap_or_default());
    ServiceError { message, code: status.code() }.into()
}

/// The message of a response.
pub(super) fn message<T>(response: Result<Response<T>, Status>) -> anyhow::Result<T> {
    response.map(Response::into_inner).map_err(|status| service_error(&status))
}

/// Reads a list page by page: `call` gets the token of a page and returns the token of the next one,
/// which is empty after the last page.
pub(super) async fn for_each_page(
    mut call: impl AsyncFnMut(String) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut page_token = String::new();
    loop {
        page_token = call(page_token).await?;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}
