//! The door of `AdminService`.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{blocking, status, verify, wire};
use crate::{
    context::Context,
    proto::v1::{self as pb, admin_service_server::AdminService},
    query::{self, IdList},
};

/// Answers `AdminService`.
pub struct AdminDoor {
    cx: Arc<Context>,
    stopping: CancellationToken,
    /// One place: for whoever verifies.
    verifying: Arc<Semaphore>,
}

impl AdminDoor {
    /// Over a context. When `stopping` is cancelled, open streams end.
    #[must_use]
    pub fn new(cx: Arc<Context>, stopping: CancellationToken) -> Self {
        Self { cx, stopping, verifying: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl AdminService for AdminDoor {
    async fn stats(
        &self,
        _: Request<pb::StatsRequest>,
    ) -> Result<Response<pb::StatsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let stats = blocking(&self.cx.metrics, move || query::stats(&cx)).await?;
        stats.map(|it| Response::new(wire::stats_response(it))).map_err(status::of_query)
    }

    type VerifyStream = ReceiverStream<Result<pb::VerifyResponse, Status>>;

    async fn verify(
        &self,
        request: Request<pb::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let place = Arc::clone(&self.verifying).try_acquire_owned();
        let place = place.map_err(|_| status::busy())?;
        let (cx, stopping) = (Arc::clone(&self.cx), self.stopping.clone());
        Ok(Response::new(verify::verify(cx, request.into_inner(), (stopping, place))))
    }

    async fn list_deleted_rooms(
        &self,
        request: Request<pb::ListDeletedRoomsRequest>,
    ) -> Result<Response<pb::ListDeletedRoomsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let pb::ListDeletedRoomsRequest { page_size, page_token } = request.into_inner();
        let list = move || query::list_deleted_rooms(&cx, page_size, &page_token);
        let list = blocking(&self.cx.metrics, list).await?.map_err(status::of_query)?;
        let IdList { ids: room_ids, next_page_token } = list;
        Ok(Response::new(pb::ListDeletedRoomsResponse { room_ids, next_page_token }))
    }

    async fn list_erased_users(
        &self,
        request: Request<pb::ListErasedUsersRequest>,
    ) -> Result<Response<pb::ListErasedUsersResponse>, Status> {
        let pb::ListErasedUsersRequest { page_size, page_token } = request.into_inner();
        let IdList { ids: user_ids, next_page_token } =
            query::list_erased_users(&self.cx, page_size, &page_token);
        Ok(Response::new(pb::ListErasedUsersResponse { user_ids, next_page_token }))
    }
}
