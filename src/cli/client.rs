//! Talking to a running service, and saying what is wrong when that fails.

use anyhow::Context as _;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::proto::v1::{
    admin_service_client::AdminServiceClient, history_service_client::HistoryServiceClient,
    ingest_service_client::IngestServiceClient, key_service_client::KeyServiceClient,
};

/// Largest answer that is taken: a page of events, or of a large room's state.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub(super) struct Clients {
    pub(super) history: HistoryServiceClient<Channel>,
    pub(super) ingest: IngestServiceClient<Channel>,
    pub(super) keys: KeyServiceClient<Channel>,
    pub(super) admin: AdminServiceClient<Channel>,
}

pub(super) async fn connect(server: &str) -> anyhow::Result<Clients> {
    let channel = channel(server).await?;
    Ok(Clients {
        history: HistoryServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        ingest: IngestServiceClient::new(channel.clone()),
        keys: KeyServiceClient::new(channel.clone()),
        admin: AdminServiceClient::new(channel),
    })
}

pub(super) async fn channel(server: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(server.to_owned())
        .with_context(|| format!("`{server}` is not a URL such as http://127.0.0.1:8470"))?;
    endpoint.connect().await.with_context(|| {
        format!("cannot reach the service at {server}; start it with `backscroll serve`, or give another --server")
    })
}

/// A refusal of the service, for people.
pub(super) fn told(status: &Status) -> anyhow::Error {
    let reason = status.get_details_error_info().map(|it| format!(" ({})", it.reason));
    anyhow::anyhow!("{}{}", status.message(), reason.unwrap_or_default())
}
