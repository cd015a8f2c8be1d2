//! The handler of `HistoryService`.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status};
use tracing::{Span, field};

use super::{
    bounds::{Bounded, BoundedPage, FoundAnswer},
    executor::Executor,
    require::OfGateway,
    status,
    timeout::deadline,
    wire,
};
use crate::{
    context::{Context, feeder::FeederBounds},
    deadline::Deadline,
    graph::WalkEnd,
    metrics::Metrics,
    proto::v1::{self as pb, ErrorReason, history_service_server::HistoryService},
    query::{
        self, BatchGetEvents, Cost, ExplainAccess, GetRoom, GetRoomDigest, GetState,
        ListErasedMembers, ListEventFlags, ListEvents, ListPurgedEvents, ListRooms, ListStateAfter,
        PageRequest, QueryError, Question, ServedPage, WalkQuestion,
    },
    slow_walks::{SlowWalk, WalkKind},
    visibility::Form,
};

/// The most bytes of a room id that are logged; valid ids have at most 255.
const MAX_LOGGED: usize = 255;

/// Handles the calls of `HistoryService`.
pub struct HistoryHandler {
    cx: Arc<Context>,
    executor: Executor,
}

impl HistoryHandler {
    /// A handler that works on a context.
    #[must_use]
    pub fn new(cx: Arc<Context>, executor: Executor) -> Self {
        Self { cx, executor }
    }

    /// Answers a question of an internal caller.
    async fn answer<Q>(&self, deadline: Deadline, question: Q) -> Result<Q::Answer, Status>
    where
        Q: Question<Answer: Send> + Send + 'static,
    {
        let cx = Arc::clone(&self.cx);
        self.executor.run(deadline, move |it| query::answer(&cx, &question, it)).await
    }

    /// Answers a question that walks through a room, and notes the answer in logs and metrics.
    async fn walk<Q>(&self, call: WalkCall, question: Q) -> Result<BoundedPage, Status>
    where
        Q: WalkQuestion + Clone + Send + 'static,
    {
        let origin = question.asker().origin().map(str::to_owned);
        if call.of_gateway.is_some() && origin.is_none() {
            // What a gateway leaves out must not open what is hidden from other servers.
            let text =
                "name the asking server as the requester: a gateway may ask for other servers only";
            return Err(status::refuse(ErrorReason::NotForGateways, text));
        }
        let room_id = question.room_id().unwrap_or_default().to_owned();
        log_question(origin.as_deref(), &room_id);
        let bounded = Bounded::new(&self.cx, call.bounds, origin.as_deref().unwrap_or_default());
        let mut found = self.walk_once(&call.deadline, &question, &bounded).await?;
        if bounded.may_become_positive(&found)
            && let Some(waiting) = bounded.wait_slot()
        {
            // A page takes up to 2 MiB, and many requests may wait.
            drop(found);
            waiting.until_final(&call.deadline).await;
            found = self.walk_once(&call.deadline, &question, &bounded).await?;
        }
        let FoundAnswer { answer, is_final, took } = found;
        bounded.count(&answer, is_final);
        let page = answer.map_err(|refusal| {
            self.cx.metrics.question_refused(refusal.label());
            status::not_allowed(refusal, is_final)
        })?;
        note_answer(&self.cx.metrics, Q::KIND, &page);
        let visited = page.visited;
        self.cx.slow_walks.note(SlowWalk { room_id, kind: Q::KIND, origin, visited, took });
        Ok(BoundedPage { page, is_final })
    }

    /// Answers a question once, if the feeder keeps its bounds.
    async fn walk_once<Q>(
        &self,
        deadline: &Deadline,
        question: &Q,
        bounded: &Bounded<'_>,
    ) -> Result<FoundAnswer, Status>
    where
        Q: WalkQuestion + Clone + Send + 'static,
    {
        bounded.check_lag()?;
        // Before the answer is looked up: it is final if the tick has ended by now.
        let is_final = bounded.is_final();
        let started = Instant::now();
        let (cx, question) = (Arc::clone(&self.cx), question.clone());
        let cost = question.cost();
        let job = move |deadline: &Deadline| match query::answer(&cx, &question, deadline) {
            Ok(page) => Ok(Ok(page)),
            Err(QueryError::NotAllowed(refusal)) => Ok(Err(refusal)),
            Err(failure) => Err(failure),
        };
        // The guard of this run must not cancel the next one.
        let deadline = Deadline::new(deadline.at(), Instant::now);
        let answer = match cost {
            Cost::Small => self.executor.run_soon(deadline, job).await,
            Cost::Large => self.executor.run(deadline, job).await,
        };
        let answer = answer.inspect_err(|status| bounded.count_failure(status))?;
        Ok(FoundAnswer { answer, is_final, took: started.elapsed() })
    }
}

/// What a call says besides its question.
struct WalkCall {
    deadline: Deadline,
    of_gateway: Option<OfGateway>,
    bounds: Option<FeederBounds>,
}

impl WalkCall {
    fn new<T>(request: &Request<T>, bounds: Option<pb::FeederBounds>) -> Self {
        Self {
            deadline: deadline(request.metadata()),
            of_gateway: request.extensions().get().copied(),
            bounds: wire::feeder_bounds(bounds),
        }
    }
}

/// Logs the asking server and the room. The id is escaped and cut off: it may hold anything.
fn log_question(origin: Option<&str>, room_id: &str) {
    let span = Span::current();
    if let Some(origin) = origin {
        span.record("origin", field::debug(origin));
    }
    let shown = room_id.get(..room_id.floor_char_boundary(MAX_LOGGED)).unwrap_or_default();
    span.record("room", field::debug(shown));
}

/// Logs and counts an answer.
fn note_answer(metrics: &Metrics, kind: WalkKind, page: &ServedPage) {
    let end = match page.end {
        WalkEnd::Exhausted => "exhausted",
        WalkEnd::Limit => "limit",
        WalkEnd::Budget => "budget",
        WalkEnd::Size => "size",
    };
    let redacted = page.events.iter().filter(|it| it.form == Form::Redacted).count();
    let full = page.events.len() - redacted;
    metrics.walked(kind.name(), page.visited, end);
    metrics.served("full", full);
    metrics.served("redacted", redacted);
    let span = Span::current();
    span.record("full", full).record("redacted", redacted);
    span.record("visited", page.visited).record("end", end);
}

#[tonic::async_trait]
impl HistoryService for HistoryHandler {
    async fn backfill(
        &self,
        request: Request<pb::BackfillRequest>,
    ) -> Result<Response<pb::BackfillResponse>, Status> {
        let call = WalkCall::new(&request, request.get_ref().feeder_bounds);
        let omit_event_ids = request.get_ref().omit_event_ids;
        let question = wire::backfill(request.into_inner())?;
        let page = self.walk(call, question).await?;
        Ok(Response::new(wire::backfill_response(page, omit_event_ids)))
    }

    async fn get_missing_events(
        &self,
        request: Request<pb::GetMissingEventsRequest>,
    ) -> Result<Response<pb::GetMissingEventsResponse>, Status> {
        let call = WalkCall::new(&request, request.get_ref().feeder_bounds);
        let omit_event_ids = request.get_ref().omit_event_ids;
        let question = wire::get_missing_events(request.into_inner())?;
        let page = self.walk(call, question).await?;
        Ok(Response::new(wire::get_missing_events_response(page, omit_event_ids)))
    }

    async fn compare_answers(
        &self,
        request: Request<pb::CompareAnswersRequest>,
    ) -> Result<Response<pb::CompareAnswersResponse>, Status> {
        let deadline = deadline(request.metadata());
        let bounds = wire::compared_bounds(request.get_ref());
        let question = wire::compare_answers(request.into_inner())?;
        Bounded::new(&self.cx, bounds, "").check_lag()?;
        let comparison = self.answer(deadline, question).await?;
        Ok(Response::new(wire::compare_answers_response(comparison)))
    }

    async fn batch_get_events(
        &self,
        request: Request<pb::BatchGetEventsRequest>,
    ) -> Result<Response<pb::BatchGetEventsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::BatchGetEventsRequest { room_id, event_ids } = request.into_inner();
        let events = self.answer(deadline, BatchGetEvents { room_id, event_ids }).await?;
        Ok(Response::new(wire::batch_get_events_response(events)))
    }

    async fn get_room(
        &self,
        request: Request<pb::GetRoomRequest>,
    ) -> Result<Response<pb::GetRoomResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::GetRoomRequest { room_id } = request.into_inner();
        let room = self.answer(deadline, GetRoom { room_id }).await?;
        Ok(Response::new(wire::get_room_response(room)))
    }

    async fn list_erased_members(
        &self,
        request: Request<pb::ListErasedMembersRequest>,
    ) -> Result<Response<pb::ListErasedMembersResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListErasedMembersRequest { room_id, page_size: size, page_token: token } =
            request.into_inner();
        let page = PageRequest { size, token };
        let list = self.answer(deadline, ListErasedMembers { room_id, page }).await?;
        Ok(Response::new(wire::list_erased_members_response(list)))
    }

    async fn list_state_after(
        &self,
        request: Request<pb::ListStateAfterRequest>,
    ) -> Result<Response<pb::ListStateAfterResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListStateAfterRequest { room_id, event_id, page_size: size, page_token: token } =
            request.into_inner();
        let page = PageRequest { size, token };
        let list = self.answer(deadline, ListStateAfter { room_id, event_id, page }).await?;
        Ok(Response::new(wire::list_state_after_response(list)))
    }

    async fn list_rooms(
        &self,
        request: Request<pb::ListRoomsRequest>,
    ) -> Result<Response<pb::ListRoomsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListRoomsRequest { page_size: size, page_token: token } = request.into_inner();
        let page = PageRequest { size, token };
        let rooms = self.answer(deadline, ListRooms { page }).await?;
        Ok(Response::new(wire::list_rooms_response(rooms)))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListEventsRequest {
            room_id,
            page_size: size,
            page_token: token,
            max_append_number,
        } = request.into_inner();
        let page = PageRequest { size, token };
        let events = self.answer(deadline, ListEvents { room_id, max_append_number, page }).await?;
        Ok(Response::new(wire::list_events_response(events)))
    }

    async fn list_purged_events(
        &self,
        request: Request<pb::ListPurgedEventsRequest>,
    ) -> Result<Response<pb::ListPurgedEventsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListPurgedEventsRequest { room_id, page_size: size, page_token: token } =
            request.into_inner();
        let page = PageRequest { size, token };
        let list = self.answer(deadline, ListPurgedEvents { room_id, page }).await?;
        Ok(Response::new(wire::list_purged_events_response(list)))
    }

    async fn get_state(
        &self,
        request: Request<pb::GetStateRequest>,
    ) -> Result<Response<pb::GetStateResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::GetStateRequest { room_id, event_id, page_size: size, page_token: token } =
            request.into_inner();
        let page = PageRequest { size, token };
        let state = self.answer(deadline, GetState { room_id, event_id, page }).await?;
        Ok(Response::new(wire::get_state_response(state)))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ExplainAccessRequest { room_id, event_id, requester } = request.into_inner();
        let (origin, destination) = wire::server_names(requester.unwrap_or_default())?;
        let question = ExplainAccess { room_id, event_id, origin, destination };
        let explanation = self.answer(deadline, question).await?;
        Ok(Response::new(wire::explain_access_response(explanation)))
    }

    async fn get_room_digest(
        &self,
        request: Request<pb::GetRoomDigestRequest>,
    ) -> Result<Response<pb::GetRoomDigestResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::GetRoomDigestRequest { room_id, prefix_bits } = request.into_inner();
        let parts = self.answer(deadline, GetRoomDigest { room_id, prefix_bits }).await?;
        Ok(Response::new(wire::get_room_digest_response(parts)))
    }

    async fn list_event_flags(
        &self,
        request: Request<pb::ListEventFlagsRequest>,
    ) -> Result<Response<pb::ListEventFlagsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::ListEventFlagsRequest {
            room_id,
            prefix_bits,
            prefix,
            page_size: size,
            page_token: token,
        } = request.into_inner();
        let page = PageRequest { size, token };
        let question = ListEventFlags { room_id, prefix_bits, prefix, page };
        let list = self.answer(deadline, question).await?;
        Ok(Response::new(wire::list_event_flags_response(list)))
    }
}
