//! The keys of other servers that the history service stores for all gateways.

use std::time::Duration;

use axum::body::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    GrpcMethod,
    client::{HistoryClient, HistoryQuestion},
};
use crate::proto::v1::{
    GetServerKeysRequest, GetServerKeysResponse, PutServerKeysRequest, PutServerKeysResponse,
};

const KEY_SERVICE: &str = "backscroll.history.v1.KeyService";

const GET_SERVER_KEYS: GrpcMethod = GrpcMethod {
    service: KEY_SERVICE,
    name: "GetServerKeys",
    path: "/backscroll.history.v1.KeyService/GetServerKeys",
};
const PUT_SERVER_KEYS: GrpcMethod = GrpcMethod {
    service: KEY_SERVICE,
    name: "PutServerKeys",
    path: "/backscroll.history.v1.KeyService/PutServerKeys",
};

/// Longest wait for the history service. Without its answer, the server itself can be asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reads and writes the keys of other servers that the history service stores.
#[derive(Clone, Debug)]
pub(crate) struct StoredKeysClient(HistoryClient);

/// A server's answer about its keys, as the history service stores it.
#[derive(Debug)]
pub(crate) struct StoredKeys {
    /// The `/_matrix/key/v2/server` answer, unchanged.
    pub(crate) answer: Bytes,
    /// When a gateway fetched it, in milliseconds since 1970.
    pub(crate) fetched_ts: u64,
}

/// Why the history service has no keys of a server to give.
#[derive(Debug)]
pub(crate) enum NoStoredKeys {
    /// It has never stored any.
    Unknown,
    /// It has stored keys that are not valid any more.
    Expired,
    /// The call has failed.
    Failed(Status),
}

impl StoredKeysClient {
    pub(super) fn new(client: HistoryClient) -> Self {
        Self(client)
    }

    pub(crate) async fn get(&self, server_name: String) -> Result<StoredKeys, NoStoredKeys> {
        let question = HistoryQuestion::new(GET_SERVER_KEYS, &GetServerKeysRequest { server_name });
        let answer = self.0.ask::<GetServerKeysResponse>(&question, Instant::now() + TIMEOUT).await;
        let answer = answer.map_err(NoStoredKeys::from)?;
        Ok(StoredKeys { answer: answer.answer.clone(), fetched_ts: answer.fetched_ts })
    }

    pub(crate) async fn put(&self, keys: StoredKeys) -> Result<(), Status> {
        let StoredKeys { answer, fetched_ts } = keys;
        let question =
            HistoryQuestion::new(PUT_SERVER_KEYS, &PutServerKeysRequest { answer, fetched_ts });
        self.0.ask::<PutServerKeysResponse>(&question, Instant::now() + TIMEOUT).await?;
        Ok(())
    }
}

impl From<Status> for NoStoredKeys {
    fn from(status: Status) -> Self {
        if status.code() != Code::NotFound {
            return Self::Failed(status);
        }
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        if reason == "KEYS_EXPIRED" { Self::Expired } else { Self::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_consist_of_service_and_method() {
        for GrpcMethod { service, name, path } in [GET_SERVER_KEYS, PUT_SERVER_KEYS] {
            assert_eq!(path, format!("/{service}/{name}"));
        }
    }
}
