//! Between proto and the domain. Requests are taken apart field by field, so that a new field
//! does not compile until it is thought about.

use bytes::Bytes;
use tonic::Status;

use super::status;
use crate::{
    graph::WalkEnd,
    ingest::{DeleteProgress, Outcome, PurgeProgress, Refusal, Verdict},
    pdu::PduError,
    proto::v1 as pb,
    query::{
        Access, Asker, Backfill, EventList, Explanation, GetMissingEvents, IdList, PurgedList,
        RoomEvent, RoomEvents, RoomList, RoomSummary, ServedEvent, ServedPage, Sizes, StatePage,
        Stats, UnknownRoom, WideRoom,
    },
    slow_walks::SlowWalk,
    verify::Fault,
    visibility::Form,
};

/// The most bytes of a text for people. Some repeat what a caller has said, which may be long.
pub(super) const MAX_TEXT: usize = 1_024;

/// A text, cut off where it gets long.
pub(super) fn brief(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// The longest server name that the specification allows.
const MAX_SERVER_NAME: usize = 255;

/// How the events of a page travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One by one.
    Events,
    /// As one text.
    Json,
}

impl Shape {
    fn of(as_json: bool) -> Self {
        if as_json { Self::Json } else { Self::Events }
    }
}

pub(super) fn backfill(request: pb::BackfillRequest) -> Result<(Backfill, Shape), Status> {
    let pb::BackfillRequest { room_id, requester, event_ids, limit, as_json } = request;
    let question = Backfill { room_id, asker: asker(requester)?, event_ids, limit };
    Ok((question, Shape::of(as_json)))
}

pub(super) fn get_missing_events(
    request: pb::GetMissingEventsRequest,
) -> Result<(GetMissingEvents, Shape), Status> {
    let pb::GetMissingEventsRequest {
        room_id,
        requester,
        earliest_events,
        latest_events,
        limit,
        min_depth,
        as_json,
    } = request;
    let asker = asker(requester)?;
    let question =
        GetMissingEvents { room_id, asker, earliest_events, latest_events, limit, min_depth };
    Ok((question, Shape::of(as_json)))
}

fn asker(requester: Option<pb::Requester>) -> Result<Asker, Status> {
    match requester {
        None => Ok(Asker::Internal),
        Some(requester) => {
            let (origin, destination) = server_names(requester)?;
            Ok(Asker::Server { origin, destination })
        }
    }
}

/// Whoever names itself must do so with a name: an empty one is never an internal caller by accident.
pub(super) fn server_names(requester: pb::Requester) -> Result<(String, String), Status> {
    let pb::Requester { origin, destination } = requester;
    for (name, member) in [(&origin, "requester.origin"), (&destination, "requester.destination")] {
        if name.is_empty() || name.len() > MAX_SERVER_NAME {
            let text = format!("{member} must be a server name of 1 to {MAX_SERVER_NAME} bytes");
            return Err(status::invalid("SERVER_NAME_INVALID", &text));
        }
    }
    Ok((origin, destination))
}

pub(super) fn backfill_response(page: ServedPage, shape: Shape) -> pb::BackfillResponse {
    let ServedPage { events, end, missing_event_ids, visited } = page;
    let end_reason = end_reason(end);
    let (events, json, pdu_count) = shaped("pdus", events, shape);
    pb::BackfillResponse { events, end_reason, missing_event_ids, visited, json, pdu_count }
}

pub(super) fn get_missing_events_response(
    page: ServedPage,
    shape: Shape,
) -> pb::GetMissingEventsResponse {
    let ServedPage { events, end, missing_event_ids, visited } = page;
    let end_reason = end_reason(end);
    let (events, json, pdu_count) = shaped("events", events, shape);
    pb::GetMissingEventsResponse { events, end_reason, missing_event_ids, visited, json, pdu_count }
}

fn end_reason(end: WalkEnd) -> i32 {
    let reason = match end {
        WalkEnd::Exhausted => pb::EndReason::Exhausted,
        WalkEnd::Limit => pb::EndReason::Limit,
        WalkEnd::Budget => pb::EndReason::Budget,
        WalkEnd::Size => pb::EndReason::Size,
    };
    reason.into()
}

fn shaped(member: &str, events: Vec<ServedEvent>, shape: Shape) -> (Vec<pb::Event>, Bytes, u32) {
    if shape == Shape::Json {
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        return (Vec::new(), json_end(member, &events), count);
    }
    let event = |it| {
        let ServedEvent { event_id, pdu, form } = it;
        let form = match form {
            Form::Full => pb::EventForm::Full,
            Form::Redacted => pb::EventForm::Redacted,
        };
        pb::Event { event_id, pdu, form: form.into() }
    };
    (events.into_iter().map(event).collect(), Bytes::new(), 0)
}

/// `"member":[…]}`: a server is answered with what the gateway puts before it. One buffer, of the
/// right size from the start.
fn json_end(member: &str, events: &[ServedEvent]) -> Bytes {
    let pdus: usize = events.iter().map(|it| it.pdu.len() + 1).sum();
    let mut text = Vec::with_capacity(member.len() + pdus + r#""":[]}"#.len());
    text.extend_from_slice(format!(r#""{member}":["#).as_bytes());
    for (nth, event) in events.iter().enumerate() {
        if nth > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&event.pdu);
    }
    text.extend_from_slice(b"]}");
    text.into()
}

pub(super) fn batch_get_events_response(events: RoomEvents) -> pb::BatchGetEventsResponse {
    let RoomEvents { events, missing_event_ids, looked_at } = events;
    let events = events.into_iter().map(room_event).collect();
    let looked_at_count = u32::try_from(looked_at).unwrap_or(u32::MAX);
    pb::BatchGetEventsResponse { events, missing_event_ids, looked_at_count }
}

pub(super) fn list_events_response(list: EventList) -> pb::ListEventsResponse {
    let EventList { events, next_page_token } = list;
    let events = events.into_iter().map(room_event).collect();
    pb::ListEventsResponse { events, next_page_token }
}

fn room_event(event: RoomEvent) -> pb::RoomEvent {
    let RoomEvent { event_id, pdu, arrival, verdict, outlier, redacted, .. } = event;
    let RoomEvent { state_after, state_after_token, unreadable, state_unknown, .. } = event;
    let verdict = Some(pb::Verdict {
        outlier,
        rejected: verdict == Verdict::Rejected,
        soft_failed: verdict == Verdict::SoftFailed,
    });
    pb::RoomEvent {
        event_id,
        pdu,
        arrival,
        verdict,
        redacted,
        state_after,
        state_after_page_token: state_after_token,
        unreadable,
        state_unknown,
    }
}

pub(super) fn get_room_response(room: RoomSummary) -> pb::GetRoomResponse {
    let RoomSummary {
        room_id,
        room_version,
        forward_extremities,
        forward_extremity_count,
        backward_extremities,
        event_count,
        appended_count,
        outlier_count,
        rejected_count,
        soft_failed_count,
        unreadable_count,
        state_count,
        state_needed,
    } = room;
    pb::GetRoomResponse {
        room_id,
        room_version,
        forward_extremities,
        backward_extremities,
        event_count,
        appended_count,
        outlier_count,
        rejected_count,
        soft_failed_count,
        current_state_known: state_count.is_some(),
        state_count: state_count.unwrap_or(0).into(),
        forward_extremity_count,
        unreadable_count,
        state_needed_event_ids: state_needed,
    }
}

pub(super) fn list_erased_members_response(list: IdList) -> pb::ListErasedMembersResponse {
    let IdList { ids: user_ids, next_page_token } = list;
    pb::ListErasedMembersResponse { user_ids, next_page_token }
}

pub(super) fn list_state_after_response(list: IdList) -> pb::ListStateAfterResponse {
    let IdList { ids: event_ids, next_page_token } = list;
    pb::ListStateAfterResponse { event_ids, next_page_token }
}

pub(super) fn list_rooms_response(rooms: RoomList) -> pb::ListRoomsResponse {
    let RoomList { room_ids, next_page_token } = rooms;
    pb::ListRoomsResponse { room_ids, next_page_token }
}

pub(super) fn list_purged_events_response(list: PurgedList) -> pb::ListPurgedEventsResponse {
    let PurgedList { event_id_hashes, next_page_token } = list;
    let event_id_hashes = event_id_hashes.iter().map(|it| it.to_vec().into()).collect();
    pb::ListPurgedEventsResponse { event_id_hashes, next_page_token }
}

pub(super) fn purge_history_response(progress: PurgeProgress) -> pb::PurgeHistoryResponse {
    let PurgeProgress { to_purge, removed, made_outliers, done } = progress;
    pb::PurgeHistoryResponse {
        to_purge_count: to_purge,
        removed_count: removed,
        outlier_count: made_outliers,
        done,
    }
}

pub(super) fn delete_room_response(progress: DeleteProgress) -> pb::DeleteRoomResponse {
    let DeleteProgress { removed, done } = progress;
    pb::DeleteRoomResponse { removed_count: removed, done }
}

pub(super) fn get_state_response(page: StatePage) -> pb::GetStateResponse {
    let StatePage { entries, next_page_token } = page;
    let entry = |it| {
        let crate::query::StateEntry { event_type, state_key, event_id } = it;
        pb::StateEntry { r#type: event_type, state_key, event_id }
    };
    pb::GetStateResponse { entries: entries.into_iter().map(entry).collect(), next_page_token }
}

pub(super) fn explain_access_response(explanation: Explanation) -> pb::ExplainAccessResponse {
    let Explanation { access, rule, facts } = explanation;
    let outcome = match access {
        Access::Full => pb::AccessOutcome::Full,
        Access::Redacted => pb::AccessOutcome::Redacted,
        Access::NotServed => pb::AccessOutcome::NotServed,
        Access::Refused => pb::AccessOutcome::Refused,
    };
    pb::ExplainAccessResponse { outcome: outcome.into(), rule, facts }
}

pub(super) fn stats_response(stats: Stats) -> pb::StatsResponse {
    let Stats { durability, sizes, widest_rooms, slow_walks, unknown_rooms } = stats;
    let Sizes { rooms, events, forward_extremities, widest: _, gaps, .. } = sizes;
    let Sizes { waiting, store_bytes, free_bytes, unreadable, state_unknown, .. } = sizes;
    let wide = |it| {
        let WideRoom { room_id, forward_extremities, events } = it;
        pb::WideRoom { room_id, forward_extremities, events }
    };
    let unknown = |it| {
        let UnknownRoom { room_id, is_answered, state_needed } = it;
        pb::UnknownRoom { room_id, is_answered, state_needed_event_ids: state_needed }
    };
    let slow = |it| {
        let SlowWalk { room_id, question, origin, visited, took } = it;
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (question, origin) = (question.to_owned(), origin.unwrap_or_default());
        pb::SlowWalk { room_id, question, origin, visited, microseconds }
    };
    pb::StatsResponse {
        rooms,
        events,
        forward_extremities,
        gaps,
        waiting_for_state: waiting,
        store_bytes,
        free_bytes,
        widest_rooms: widest_rooms.into_iter().map(wide).collect(),
        slowest_walks: slow_walks.into_iter().map(slow).collect(),
        durability: durability.words().to_owned(),
        unreadable_events: unreadable,
        rooms_of_unknown_state: state_unknown,
        unknown_rooms: unknown_rooms.into_iter().map(unknown).collect(),
    }
}

pub(super) fn fault(fault: Fault) -> pb::Fault {
    let Fault { room_id, event_id, what } = fault;
    pb::Fault { room_id, event_id, what: brief(what.to_string()) }
}

pub(super) fn verdict(verdict: pb::Verdict) -> Verdict {
    let pb::Verdict { outlier: _, rejected, soft_failed } = verdict;
    Verdict::of_flags(rejected, soft_failed)
}

pub(super) fn append_events_response(outcome: Outcome) -> pb::AppendEventsResponse {
    use pb::append_events_response::Outcome as Wire;
    match outcome {
        Outcome::Appended {
            event_id,
            duplicate,
            redacted,
            unreadable,
            state_given,
            state_unknown,
        } => {
            let appended = Wire::Appended(pb::Appended {
                duplicate,
                redacted,
                purged: false,
                unreadable: unreadable.is_some(),
                unreadable_because: unreadable.map(|it| it.to_string()).unwrap_or_default(),
                state_given,
                state_unknown,
            });
            pb::AppendEventsResponse { event_id, outcome: Some(appended) }
        }
        Outcome::Purged { event_id } => {
            let purged = pb::Appended { purged: true, ..pb::Appended::default() };
            // As the caller named it, and of a room that is deleted nobody has looked at it.
            let event_id = if event_id.len() > MAX_TEXT { String::new() } else { event_id };
            pb::AppendEventsResponse { event_id, outcome: Some(Wire::Appended(purged)) }
        }
        Outcome::Refused { event_id, refusal } => {
            let reason = refusal_reason(&refusal).into();
            let message = brief(refusal.to_string());
            let refusal = Wire::Refusal(pb::Refusal { reason, message });
            let event_id = event_id.unwrap_or_default();
            pb::AppendEventsResponse { event_id, outcome: Some(refusal) }
        }
    }
}

/// A refusal in one word, for counting.
pub(super) fn refusal_name(refusal: &Refusal) -> &'static str {
    let name = refusal_reason(refusal).as_str_name();
    name.strip_prefix("REFUSAL_REASON_").unwrap_or(name)
}

fn refusal_reason(refusal: &Refusal) -> pb::RefusalReason {
    use pb::RefusalReason as Reason;
    match refusal {
        Refusal::RoomIdInvalid => Reason::RoomIdInvalid,
        Refusal::RoomVersionMissing => Reason::RoomVersionMissing,
        Refusal::RoomVersionUnknown(_) => Reason::RoomVersionUnknown,
        Refusal::RoomVersionMismatch { .. } => Reason::RoomVersionMismatch,
        Refusal::Pdu(why) | Refusal::Unreadable(why) => match why {
            PduError::NotJson { .. } => Reason::NotJson,
            PduError::BadJson(_) => Reason::BadJson,
            PduError::Format { .. } => Reason::FormatInvalid,
            PduError::TooLarge { .. } => Reason::TooLarge,
        },
        Refusal::RoomMismatch { .. } => Reason::RoomMismatch,
        Refusal::EventIdMismatch { .. } => Reason::EventIdMismatch,
        Refusal::Conflict(_) => Reason::Conflict,
        Refusal::StateInvalid { .. } | Refusal::StateTooLong(_) => Reason::StateInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_federations_answer() {
        let event = |pdu: &'static str| ServedEvent {
            event_id: "$a".to_owned(),
            pdu: pdu.into(),
            form: Form::Full,
        };
        for (pdus, expected) in [
            (&[][..], r#""pdus":[]}"#),
            (&["{}"], r#""pdus":[{}]}"#),
            (&[r#"{"a" : 1.0}"#, "{ }"], r#""pdus":[{"a" : 1.0},{ }]}"#),
        ] {
            let events: Vec<ServedEvent> = pdus.iter().map(|it| event(it)).collect();
            let (none, json, count) = shaped("pdus", events.clone(), Shape::Json);
            assert_eq!((none.len(), &*json), (0, expected.as_bytes()));
            assert_eq!(usize::try_from(count).unwrap(), pdus.len());
            let (events, json, count) = shaped("pdus", events, Shape::Events);
            assert_eq!((events.len(), json.len(), count), (pdus.len(), 0, 0));
        }
    }
}
