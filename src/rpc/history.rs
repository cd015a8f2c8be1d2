//! The door of `HistoryService`.

use std::{sync::Arc, time::Instant};

use tokio::time;
use tonic::{Request, Response, Status};

use super::{
    observe,
    require::OfGateway,
    status, wire,
    work::{Work, until},
};
use crate::{
    context::Context,
    deadline::Deadline,
    proto::v1::{self as pb, ErrorReason, history_service_server::HistoryService},
    query::{self, Asker, Page, QueryError},
    slowest::SlowWalk,
};

/// Answers `HistoryService`.
pub struct HistoryDoor {
    cx: Arc<Context>,
    work: Work,
}

impl HistoryDoor {
    /// Over a context.
    #[must_use]
    pub fn new(cx: Arc<Context>) -> Self {
        let work = Work::new(cx.metrics.clone());
        Self { cx, work }
    }

    /// Asks a question about a room off the async threads, and puts the answer or the failure into
    /// words.
    async fn ask<T: Send + 'static, R>(
        &self,
        until: Option<time::Instant>,
        room_id: String,
        question: impl Fn(&Context, &str) -> Result<T, QueryError> + Send + 'static,
        encode: impl FnOnce(T) -> R,
    ) -> Result<Response<R>, Status> {
        let cx = Arc::clone(&self.cx);
        let ask = move |_: &Deadline| query::steadily(&cx, &room_id, |cx| question(cx, &room_id));
        let answer = self.work.run(until, ask).await?;
        answer.map(|it| Response::new(encode(it))).map_err(status::of_query)
    }

    /// Asks a question of another server, and takes note of what came of it.
    async fn walk(
        &self,
        (asked, until): (Asked, Option<time::Instant>),
        question: impl Fn(&Context, &Deadline) -> Result<Page, QueryError> + Send + 'static,
    ) -> Result<Page, Status> {
        let Asked { question: name, room_id, origin, named } = asked;
        observe::asked(origin.as_deref(), &room_id);
        let started = Instant::now();
        let (cx, asked_for) = (Arc::clone(&self.cx), room_id.clone());
        let ask = move |it: &Deadline| query::steadily(&cx, &asked_for, |cx| question(cx, it));
        let answer = if named <= FEW_EVENTS {
            self.work.run_soon(until, ask).await?
        } else {
            self.work.run(until, ask).await?
        };
        let took = started.elapsed();
        if let Err(QueryError::NotAllowed(refusal)) = &answer {
            self.cx.metrics.question_refused(wire::access_refusal_name(*refusal));
        }
        let page = answer.map_err(status::of_query)?;
        observe::Walked { question: name, page: &page }.note(&self.cx.metrics);
        let visited = page.visited;
        self.cx.slowest.note(SlowWalk { room_id, question: name, origin, visited, took });
        Ok(page)
    }
}

/// So many events are looked up in a moment.
const FEW_EVENTS: usize = 200;

/// Who asks what about which room.
struct Asked {
    question: &'static str,
    room_id: String,
    origin: Option<String>,
    /// How many events the question names.
    named: usize,
}

impl Asked {
    fn new(question: &'static str, room_id: &str, (asker, named): (&Asker, usize)) -> Self {
        let origin = match asker {
            Asker::Sister => None,
            Asker::Server { origin, .. } => Some(origin.clone()),
        };
        Self { question, room_id: room_id.to_owned(), origin, named }
    }
}

/// A gateway asks for other servers only: what it leaves out must not open what is hidden from them.
fn may_ask(asker: &Asker, of_gateway: Option<OfGateway>) -> Result<(), Status> {
    match (asker, of_gateway) {
        (Asker::Sister, Some(OfGateway)) => {
            let text = "name the server that asks as the requester: a gateway asks for nobody else";
            Err(status::refuse(ErrorReason::NotForGateways, text))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl HistoryService for HistoryDoor {
    async fn backfill(
        &self,
        request: Request<pb::BackfillRequest>,
    ) -> Result<Response<pb::BackfillResponse>, Status> {
        let until = until(request.metadata());
        let of_gateway = request.extensions().get().copied();
        let omit_event_ids = request.get_ref().omit_event_ids;
        let question = wire::backfill(request.into_inner())?;
        may_ask(&question.asker, of_gateway)?;
        let by = (&question.asker, question.event_ids.len());
        let asked = Asked::new("backfill", &question.room_id, by);
        let ask = move |cx: &Context, it: &Deadline| query::backfill(cx, &question, it);
        let page = self.walk((asked, until), ask).await?;
        Ok(Response::new(wire::backfill_response(page, omit_event_ids)))
    }

    async fn get_missing_events(
        &self,
        request: Request<pb::GetMissingEventsRequest>,
    ) -> Result<Response<pb::GetMissingEventsResponse>, Status> {
        let until = until(request.metadata());
        let of_gateway = request.extensions().get().copied();
        let omit_event_ids = request.get_ref().omit_event_ids;
        let question = wire::get_missing_events(request.into_inner())?;
        may_ask(&question.asker, of_gateway)?;
        let named = question.latest_events.len() + question.earliest_events.len();
        let by = (&question.asker, named);
        let asked = Asked::new("get_missing_events", &question.room_id, by);
        let ask = move |cx: &Context, it: &Deadline| query::get_missing_events(cx, &question, it);
        let page = self.walk((asked, until), ask).await?;
        Ok(Response::new(wire::get_missing_events_response(page, omit_event_ids)))
    }

    async fn batch_get_events(
        &self,
        request: Request<pb::BatchGetEventsRequest>,
    ) -> Result<Response<pb::BatchGetEventsResponse>, Status> {
        let until = until(request.metadata());
        let pb::BatchGetEventsRequest { room_id, event_ids } = request.into_inner();
        let ask =
            move |cx: &Context, room_id: &str| query::batch_get_events(cx, room_id, &event_ids);
        self.ask(until, room_id, ask, wire::batch_get_events_response).await
    }

    async fn get_room(
        &self,
        request: Request<pb::GetRoomRequest>,
    ) -> Result<Response<pb::GetRoomResponse>, Status> {
        let until = until(request.metadata());
        let pb::GetRoomRequest { room_id } = request.into_inner();
        self.ask(until, room_id, query::get_room, wire::get_room_response).await
    }

    async fn list_erased_members(
        &self,
        request: Request<pb::ListErasedMembersRequest>,
    ) -> Result<Response<pb::ListErasedMembersResponse>, Status> {
        let until = until(request.metadata());
        let pb::ListErasedMembersRequest { room_id, page_size, page_token } = request.into_inner();
        let ask = move |cx: &Context, room_id: &str| {
            query::list_erased_members(cx, room_id, page_size, &page_token)
        };
        self.ask(until, room_id, ask, wire::list_erased_members_response).await
    }

    async fn list_state_after(
        &self,
        request: Request<pb::ListStateAfterRequest>,
    ) -> Result<Response<pb::ListStateAfterResponse>, Status> {
        let until = until(request.metadata());
        let pb::ListStateAfterRequest { room_id, event_id, page_size, page_token } =
            request.into_inner();
        let ask = move |cx: &Context, room_id: &str| {
            query::list_state_after(cx, room_id, &event_id, page_size, &page_token)
        };
        self.ask(until, room_id, ask, wire::list_state_after_response).await
    }

    async fn list_rooms(
        &self,
        request: Request<pb::ListRoomsRequest>,
    ) -> Result<Response<pb::ListRoomsResponse>, Status> {
        let until = until(request.metadata());
        let pb::ListRoomsRequest { page_size, page_token } = request.into_inner();
        let cx = Arc::clone(&self.cx);
        let list = move |_: &Deadline| query::list_rooms(&cx, (page_size, &page_token));
        let rooms = self.work.run(until, list).await?.map_err(status::of_query)?;
        Ok(Response::new(wire::list_rooms_response(rooms)))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let until = until(request.metadata());
        let pb::ListEventsRequest { room_id, page_size, page_token, max_append_number } =
            request.into_inner();
        let ask = move |cx: &Context, room_id: &str| {
            query::list_events(cx, (room_id, max_append_number), (page_size, &page_token))
        };
        self.ask(until, room_id, ask, wire::list_events_response).await
    }

    async fn list_purged_events(
        &self,
        request: Request<pb::ListPurgedEventsRequest>,
    ) -> Result<Response<pb::ListPurgedEventsResponse>, Status> {
        let until = until(request.metadata());
        let pb::ListPurgedEventsRequest { room_id, page_size, page_token } = request.into_inner();
        let ask = move |cx: &Context, room_id: &str| {
            query::list_purged_events(cx, room_id, (page_size, &page_token))
        };
        self.ask(until, room_id, ask, wire::list_purged_events_response).await
    }

    async fn get_state(
        &self,
        request: Request<pb::GetStateRequest>,
    ) -> Result<Response<pb::GetStateResponse>, Status> {
        let until = until(request.metadata());
        let pb::GetStateRequest { room_id, event_id, page_size, page_token } = request.into_inner();
        let ask = move |cx: &Context, room_id: &str| {
            query::get_state(cx, (room_id, &event_id), (page_size, &page_token))
        };
        self.ask(until, room_id, ask, wire::get_state_response).await
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let until = until(request.metadata());
        let pb::ExplainAccessRequest { room_id, event_id, requester } = request.into_inner();
        let (origin, destination) = wire::server_names(requester.unwrap_or_default())?;
        let ask = move |cx: &Context, room_id: &str| {
            query::explain_access(cx, (room_id, &event_id), (&origin, &destination))
        };
        self.ask(until, room_id, ask, wire::explain_access_response).await
    }
}
