//! The handler of `AdminService`.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{executor::Executor, progress::Messages, status, timeout::deadline, verify, wire};
use crate::{
    context::Context,
    proto::v1::{self as pb, admin_service_server::AdminService},
    query::{
        self, IdList, ListBanRedactions, ListDeletedRooms, ListErasedUsers, ListRoomsNotServed,
        PageRequest,
    },
};

/// Handles the calls of `AdminService`.
pub struct AdminHandler {
    cx: Arc<Context>,
    executor: Executor,
    stopping: CancellationToken,
    /// One permit: one caller verifies at a time.
    verifying: Arc<Semaphore>,
}

impl AdminHandler {
    /// A handler that works on a context. When `stopping` is cancelled, open streams end.
    #[must_use]
    pub fn new(cx: Arc<Context>, executor: Executor, stopping: CancellationToken) -> Self {
        Self { cx, executor, stopping, verifying: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl AdminService for AdminHandler {
    async fn stats(
        &self,
        request: Request<pb::StatsRequest>,
    ) -> Result<Response<pb::StatsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let deadline = deadline(request.metadata());
        let stats = self.executor.run(deadline, move |_| query::stats(&cx)).await?;
        Ok(Response::new(wire::stats_response(stats)))
    }

    type VerifyStream = Messages<pb::VerifyResponse>;

    async fn verify(
        &self,
        request: Request<pb::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let permit = Arc::clone(&self.verifying).try_acquire_owned().map_err(|_| status::busy())?;
        let cx = Arc::clone(&self.cx);
        let stopping = self.stopping.clone();
        let messages = self.executor.stream(move |progress| {
            let _permit = permit;
            verify::verify(&cx, request.into_inner(), progress, stopping)
        });
        Ok(Response::new(messages))
    }

    async fn list_deleted_rooms(
        &self,
        request: Request<pb::ListDeletedRoomsRequest>,
    ) -> Result<Response<pb::ListDeletedRoomsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let deadline = deadline(request.metadata());
        let pb::ListDeletedRoomsRequest { page_size: size, page_token: token } =
            request.into_inner();
        let question = ListDeletedRooms { page: PageRequest { size, token } };
        let list = self.executor.run(deadline, move |it| query::answer(&cx, &question, it));
        let IdList { ids: room_ids, next_page_token } = list.await?;
        Ok(Response::new(pb::ListDeletedRoomsResponse { room_ids, next_page_token }))
    }

    async fn list_erased_users(
        &self,
        request: Request<pb::ListErasedUsersRequest>,
    ) -> Result<Response<pb::ListErasedUsersResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let deadline = deadline(request.metadata());
        let pb::ListErasedUsersRequest { page_size: size, page_token: token } =
            request.into_inner();
        let question = ListErasedUsers { page: PageRequest { size, token } };
        let list = self.executor.run(deadline, move |it| query::answer(&cx, &question, it));
        let IdList { ids: user_ids, next_page_token } = list.await?;
        Ok(Response::new(pb::ListErasedUsersResponse { user_ids, next_page_token }))
    }

    async fn list_rooms_not_served(
        &self,
        request: Request<pb::ListRoomsNotServedRequest>,
    ) -> Result<Response<pb::ListRoomsNotServedResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let deadline = deadline(request.metadata());
        let pb::ListRoomsNotServedRequest { page_size: size, page_token: token } =
            request.into_inner();
        let question = ListRoomsNotServed { page: PageRequest { size, token } };
        let list = self.executor.run(deadline, move |it| query::answer(&cx, &question, it));
        Ok(Response::new(wire::list_rooms_not_served_response(list.await?)))
    }

    async fn list_ban_redactions(
        &self,
        request: Request<pb::ListBanRedactionsRequest>,
    ) -> Result<Response<pb::ListBanRedactionsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let deadline = deadline(request.metadata());
        let pb::ListBanRedactionsRequest { page_size: size, page_token: token } =
            request.into_inner();
        let question = ListBanRedactions { page: PageRequest { size, token } };
        let list = self.executor.run(deadline, move |it| query::answer(&cx, &question, it));
        Ok(Response::new(wire::list_ban_redactions_response(list.await?)))
    }
}
