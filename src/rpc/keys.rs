//! The door of `KeyService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{blocking, status};
use crate::{
    context::Context,
    pdu::ServerKeys,
    proto::v1::{self as pb, key_service_server::KeyService},
};

/// Answers `KeyService`.
pub struct KeyDoor {
    cx: Arc<Context>,
}

impl KeyDoor {
    /// Over a context.
    #[must_use]
    pub fn new(cx: Arc<Context>) -> Self {
        Self { cx }
    }
}

#[tonic::async_trait]
impl KeyService for KeyDoor {
    async fn get_server_keys(
        &self,
        request: Request<pb::GetServerKeysRequest>,
    ) -> Result<Response<pb::GetServerKeysResponse>, Status> {
        let pb::GetServerKeysRequest { server_name } = request.into_inner();
        let cx = Arc::clone(&self.cx);
        let read = blocking(&self.cx.metrics, move || cx.store.server_keys(&server_name)).await?;
        match read.map_err(|failure| status::of_store(&failure))? {
            Some(answer) => Ok(Response::new(pb::GetServerKeysResponse { answer: answer.into() })),
            None => Err(status::not_found("KEYS_UNKNOWN", "no keys of this server are held")),
        }
    }

    async fn put_server_keys(
        &self,
        request: Request<pb::PutServerKeysRequest>,
    ) -> Result<Response<pb::PutServerKeysResponse>, Status> {
        let pb::PutServerKeysRequest { answer } = request.into_inner();
        let keys = ServerKeys::parse(&answer)
            .map_err(|fault| status::invalid("KEYS_INVALID", &fault.to_string()))?;
        let cx = Arc::clone(&self.cx);
        let put = blocking(&self.cx.metrics, move || cx.put_server_keys(keys, &answer)).await?;
        put.map_err(|failure| status::of_store(&failure))?;
        Ok(Response::new(pb::PutServerKeysResponse {}))
    }
}
