//! The handler of `IngestService`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    append::{self, AppendStream},
    executor::Executor,
    lease::CallLease,
    progress::Messages,
    purge, status,
    timeout::deadline,
    wire::{self, NewBan},
};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{self, RoomIdsFault},
    pdu::UserId,
    proto::v1::{self as pb, ErrorReason, ingest_service_server::IngestService},
};

/// Handles the calls of `IngestService`.
pub struct IngestHandler {
    cx: Arc<Context>,
    executor: Executor,
    stopping: CancellationToken,
}

impl IngestHandler {
    /// A handler that works on a context. When `stopping` is cancelled, open streams end.
    #[must_use]
    pub fn new(cx: Arc<Context>, executor: Executor, stopping: CancellationToken) -> Self {
        Self { cx, executor, stopping }
    }
}

#[tonic::async_trait]
impl IngestService for IngestHandler {
    type AppendEventsStream = Messages<pb::AppendEventsResponse>;

    async fn append_events(
        &self,
        request: Request<Streaming<pb::AppendEventsRequest>>,
    ) -> Result<Response<Self::AppendEventsStream>, Status> {
        let lease = CallLease::of(request.metadata());
        let stream = AppendStream {
            cx: Arc::clone(&self.cx),
            executor: self.executor.clone(),
            lease,
            stopping: self.stopping.clone(),
        };
        let messages = self.executor.serve(append::MAX_UNREAD, move |to_caller| async move {
            stream.append(request.into_inner(), &to_caller).await
        });
        Ok(Response::new(messages))
    }

    type PurgeHistoryStream = Messages<pb::PurgeHistoryResponse>;

    async fn purge_history(
        &self,
        request: Request<pb::PurgeHistoryRequest>,
    ) -> Result<Response<Self::PurgeHistoryStream>, Status> {
        let cx = Arc::clone(&self.cx);
        let stopping = self.stopping.clone();
        let lease = CallLease::of(request.metadata());
        let messages = self.executor.stream(move |progress| {
            purge::purge_history(&cx, &lease, request.into_inner(), progress, &stopping)
        });
        Ok(Response::new(messages))
    }

    type DeleteRoomStream = Messages<pb::DeleteRoomResponse>;

    async fn delete_room(
        &self,
        request: Request<pb::DeleteRoomRequest>,
    ) -> Result<Response<Self::DeleteRoomStream>, Status> {
        let cx = Arc::clone(&self.cx);
        let stopping = self.stopping.clone();
        let lease = CallLease::of(request.metadata());
        let messages = self.executor.stream(move |progress| {
            purge::delete_room(&cx, &lease, request.into_inner(), progress, &stopping)
        });
        Ok(Response::new(messages))
    }

    async fn set_user_erased(
        &self,
        request: Request<pb::SetUserErasedRequest>,
    ) -> Result<Response<pb::SetUserErasedResponse>, Status> {
        let deadline = deadline(request.metadata());
        let lease = CallLease::of(request.metadata());
        let pb::SetUserErasedRequest { user_id, erased } = request.into_inner();
        let user_id = UserId::parse(&user_id).map_err(|fault| {
            status::refuse(ErrorReason::UserIdInvalid, &format!("user_id {fault}"))
        })?;
        let writing = lease.begin_write(&self.cx.feeder)?;
        let cx = Arc::clone(&self.cx);
        let set = move |_: &Deadline| {
            let _writing = writing;
            ingest::set_user_erased(&cx.store, &user_id, erased)
        };
        self.executor.run(deadline, set).await?;
        Ok(Response::new(pb::SetUserErasedResponse {}))
    }

    type RemoveEventsStream = Messages<pb::RemoveEventsResponse>;

    async fn remove_events(
        &self,
        request: Request<pb::RemoveEventsRequest>,
    ) -> Result<Response<Self::RemoveEventsStream>, Status> {
        let cx = Arc::clone(&self.cx);
        let stopping = self.stopping.clone();
        let lease = CallLease::of(request.metadata());
        let messages = self.executor.stream(move |progress| {
            purge::remove_events(&cx, &lease, request.into_inner(), progress, &stopping)
        });
        Ok(Response::new(messages))
    }

    async fn set_rooms_served(
        &self,
        request: Request<pb::SetRoomsServedRequest>,
    ) -> Result<Response<pb::SetRoomsServedResponse>, Status> {
        let deadline = deadline(request.metadata());
        let lease = CallLease::of(request.metadata());
        let request = request.into_inner();
        let reason = wire::set_rooms_served(&request)?;
        ingest::check_room_ids(&request.room_ids).map_err(of_room_ids)?;
        let writing = lease.begin_write(&self.cx.feeder)?;
        let cx = Arc::clone(&self.cx);
        let set = move |_: &Deadline| {
            let _writing = writing;
            ingest::set_rooms_served(&cx.store, &request.room_ids, reason)
        };
        self.executor.run(deadline, set).await?;
        Ok(Response::new(pb::SetRoomsServedResponse {}))
    }

    async fn set_ban_redaction(
        &self,
        request: Request<pb::SetBanRedactionRequest>,
    ) -> Result<Response<pb::SetBanRedactionResponse>, Status> {
        let deadline = deadline(request.metadata());
        let lease = CallLease::of(request.metadata());
        let NewBan { user, ban } = wire::new_ban(request.into_inner())?;
        let writing = lease.begin_write(&self.cx.feeder)?;
        let cx = Arc::clone(&self.cx);
        let set = move |_: &Deadline| {
            let _writing = writing;
            ingest::set_ban_redaction(&cx.store, &user, ban.as_ref())
        };
        self.executor.run(deadline, set).await?;
        Ok(Response::new(pb::SetBanRedactionResponse {}))
    }
}

fn of_room_ids(fault: RoomIdsFault) -> Status {
    let reason = match fault {
        RoomIdsFault::TooMany => ErrorReason::TooManyIds,
        RoomIdsFault::Invalid => ErrorReason::RoomIdInvalid,
    };
    status::refuse(reason, &fault.to_string())
}
