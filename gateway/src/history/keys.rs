//! What the history service remembers of other servers' keys.

use std::time::Duration;

use axum::body::Bytes;
use tokio::time::Instant;
use tonic::Status;

use super::Services;
use crate::proto::v1::{
    GetServerKeysRequest, PutServerKeysRequest, key_service_client::KeyServiceClient,
};

/// The service is near, and without it the server can be asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct RememberedKeys(pub(super) Services);

impl RememberedKeys {
    /// A server's `/_matrix/key/v2/server` answer, as it was put.
    pub(crate) async fn get(&self, server_name: String) -> Result<Bytes, Status> {
        let call =
            async |channel, request| KeyServiceClient::new(channel).get_server_keys(request).await;
        let question = GetServerKeysRequest { server_name };
        let until = Instant::now() + TIMEOUT;
        let answer = self.0.ask("GetServerKeys", (until, question), call).await?;
        Ok(answer.answer.clone())
    }

    /// Puts one.
    pub(crate) async fn put(&self, answer: Bytes) -> Result<(), Status> {
        let call =
            async |channel, request| KeyServiceClient::new(channel).put_server_keys(request).await;
        let until = Instant::now() + TIMEOUT;
        self.0.ask("PutServerKeys", (until, PutServerKeysRequest { answer }), call).await?;
        Ok(())
    }
}
