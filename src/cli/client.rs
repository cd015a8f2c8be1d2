//! Talking to a running service, and saying what is wrong when that fails.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use backscroll_tls::{ClientFiles, Dialer, Token};
use tonic::{
    Code, Request, Status,
    codegen::http::Uri,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Endpoint},
};
use tonic_types::StatusExt as _;
use tower::service_fn;

use super::ServerArgs;
use crate::proto::v1::{
    admin_service_client::AdminServiceClient, history_service_client::HistoryServiceClient,
    ingest_service_client::IngestServiceClient,
};

pub(super) struct Clients {
    pub(super) history: HistoryServiceClient<Channel>,
    pub(super) ingest: IngestServiceClient<Channel>,
    pub(super) admin: AdminServiceClient<Channel>,
}

/// A connection that shows who we are.
pub(super) type Channel = InterceptedService<transport::Channel, Show>;

/// Shows the token, if there is one.
#[derive(Clone)]
pub(super) struct Show(Option<AsciiMetadataValue>);

impl Interceptor for Show {
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
        admin: AdminServiceClient::new(channel),
    })
}

pub(super) async fn channel(args: &ServerArgs) -> anyhow::Result<Channel> {
    let ServerArgs { server, server_ca, cert, key, token_file } = args.clone();
    let is_no_url = || format!("`{server}` is not a URL such as http://127.0.0.1:8470");
    let url: Uri = server.parse().with_context(is_no_url)?;
    let authority = url.authority().with_context(is_no_url)?;
    let is_tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!(is_no_url()),
    };
    ensure!(!is_tls || server_ca.is_some(), "for https, --server-ca must say who is believed");
    let identity = cert.zip(key);
    let tls = server_ca.filter(|_| is_tls).map(|ca| ClientFiles { ca, identity }.watched());
    let dialer = Arc::new(Dialer { tls: tls.transpose()?, host: authority.host().to_owned() });
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let dial = service_fn(move |_| {
        let dialer = Arc::clone(&dialer);
        let host = dialer.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        async move { dialer.dial((host, port)).await }
    });
    // The dialer speaks TLS; tonic's own would have to be told.
    let plain = Endpoint::from_shared(format!("http://{authority}")).with_context(is_no_url)?;
    let channel = plain.connect_with_connector(dial).await.with_context(|| {
        format!("cannot reach the service at {server}; start it with `backscroll serve`, or give another --server")
    })?;
    let token = token_file.map(Token::watched).transpose().context("--token-file")?;
    let token = token.map(|it| it.get().header().parse::<AsciiMetadataValue>()).transpose()?;
    Ok(InterceptedService::new(channel, Show(token)))
}

/// A refusal of the service, for people.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Told {
    text: String,
    /// What kind of refusal it is.
    pub(super) code: Code,
}

/// A refusal of the service, for people.
pub(super) fn told(status: &Status) -> anyhow::Error {
    let reason = status.get_details_error_info().map(|it| format!(" ({})", it.reason));
    let text = format!("{}{}", status.message(), reason.unwrap_or_default());
    Told { text, code: status.code() }.into()
}
