//! The door of `IngestService`.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{append, blocking, purge, status};
use crate::{
    context::Context,
    pdu::UserId,
    proto::v1::{self as pb, ErrorReason, ingest_service_server::IngestService},
};

/// Answers `IngestService`.
pub struct IngestDoor {
    cx: Arc<Context>,
    stopping: CancellationToken,
}

impl IngestDoor {
    /// Over a context. When `stopping` is cancelled, open streams end.
    #[must_use]
    pub fn new(cx: Arc<Context>, stopping: CancellationToken) -> Self {
        Self { cx, stopping }
    }
}

#[tonic::async_trait]
impl IngestService for IngestDoor {
    type AppendEventsStream = ReceiverStream<Result<pb::AppendEventsResponse, Status>>;

    async fn append_events(
        &self,
        request: Request<Streaming<pb::AppendEventsRequest>>,
    ) -> Result<Response<Self::AppendEventsStream>, Status> {
        let (cx, stopping) = (Arc::clone(&self.cx), self.stopping.clone());
        Ok(Response::new(append::run(cx, request.into_inner(), stopping)))
    }

    type PurgeHistoryStream = ReceiverStream<Result<pb::PurgeHistoryResponse, Status>>;

    async fn purge_history(
        &self,
        request: Request<pb::PurgeHistoryRequest>,
    ) -> Result<Response<Self::PurgeHistoryStream>, Status> {
        let (cx, stopping) = (Arc::clone(&self.cx), self.stopping.clone());
        Ok(Response::new(purge::purge_history(cx, request.into_inner(), stopping)))
    }

    type DeleteRoomStream = ReceiverStream<Result<pb::DeleteRoomResponse, Status>>;

    async fn delete_room(
        &self,
        request: Request<pb::DeleteRoomRequest>,
    ) -> Result<Response<Self::DeleteRoomStream>, Status> {
        let (cx, stopping) = (Arc::clone(&self.cx), self.stopping.clone());
        Ok(Response::new(purge::delete_room(cx, request.into_inner(), stopping)))
    }

    async fn set_user_erased(
        &self,
        request: Request<pb::SetUserErasedRequest>,
    ) -> Result<Response<pb::SetUserErasedResponse>, Status> {
        let pb::SetUserErasedRequest { user_id, erased } = request.into_inner();
        if let Err(fault) = UserId::parse(&user_id) {
            let text = format!("user_id {fault}");
            return Err(status::refuse(ErrorReason::UserIdInvalid, &text));
        }
        let cx = Arc::clone(&self.cx);
        let done =
            blocking(&self.cx.metrics, move || cx.store.set_erased(&user_id, erased)).await?;
        done.map_err(|failure| status::of_store(&failure))?;
        Ok(Response::new(pb::SetUserErasedResponse {}))
    }
}
