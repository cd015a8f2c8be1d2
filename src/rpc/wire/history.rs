//! The messages of `HistoryService`.

use bytes::Bytes;
use tonic::Status;

use crate::{
    graph::WalkEnd,
    ingest::Verdict,
    proto::v1::{self as pb, ErrorReason},
    query::{
        Access, Asker, Backfill, EventFlags, EventFlagsList, EventList, Explanation,
        GetMissingEvents, IdList, PartDigest, PurgedList, RoomEvent, RoomEvents, RoomList,
        RoomSummary, ServedEvent, ServedPage, StateEntry, StatePage,
    },
    rpc::{bounds::BoundedPage, status},
    visibility::Form,
};

/// The greatest length of a server name that the specification allows, in bytes.
const MAX_SERVER_NAME: usize = 255;

pub(in crate::rpc) fn backfill(request: pb::BackfillRequest) -> Result<Backfill, Status> {
    let pb::BackfillRequest {
        room_id,
        requester,
        event_ids,
        limit,
        omit_event_ids: _,
        feeder_bounds: _,
    } = request;
    Ok(Backfill { room_id, asker: asker(requester)?, event_ids, limit })
}

pub(in crate::rpc) fn get_missing_events(
    request: pb::GetMissingEventsRequest,
) -> Result<GetMissingEvents, Status> {
    let pb::GetMissingEventsRequest {
        room_id,
        requester,
        earliest_events,
        latest_events,
        limit,
        min_depth,
        omit_event_ids: _,
        feeder_bounds: _,
    } = request;
    let asker = asker(requester)?;
    Ok(GetMissingEvents { room_id, asker, earliest_events, latest_events, limit, min_depth })
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

/// Returns origin and destination. A requester without a name is an error, so that a mistake never
/// makes another server an internal caller.
pub(in crate::rpc) fn server_names(requester: pb::Requester) -> Result<(String, String), Status> {
    let pb::Requester { origin, destination } = requester;
    for (name, member) in [(&origin, "requester.origin"), (&destination, "requester.destination")] {
        if name.is_empty() || name.len() > MAX_SERVER_NAME {
            let text = format!("{member} must be a server name of 1 to {MAX_SERVER_NAME} bytes");
            return Err(status::refuse(ErrorReason::ServerNameInvalid, &text));
        }
    }
    Ok((origin, destination))
}

pub(in crate::rpc) fn backfill_response(
    page: BoundedPage,
    omit_event_ids: bool,
) -> pb::BackfillResponse {
    let not_final = page.is_not_final();
    let ServedPage { events, end, missing_event_ids, unknown_event_ids, visited } = page.page;
    let end_reason = end_reason(end);
    let ServedEvents { event_ids, forms, pdus } = ServedEvents::new(events, omit_event_ids);
    let visited_event_count = visited;
    pb::BackfillResponse {
        unknown_event_ids,
        not_final,
        end_reason,
        visited_event_count,
        missing_event_ids,
        event_ids,
        forms,
        pdus,
    }
}

pub(in crate::rpc) fn get_missing_events_response(
    page: BoundedPage,
    omit_event_ids: bool,
) -> pb::GetMissingEventsResponse {
    let not_final = page.is_not_final();
    let ServedPage { events, end, missing_event_ids, unknown_event_ids, visited } = page.page;
    let end_reason = end_reason(end);
    let ServedEvents { event_ids, forms, pdus } = ServedEvents::new(events, omit_event_ids);
    let visited_event_count = visited;
    pb::GetMissingEventsResponse {
        unknown_event_ids,
        not_final,
        end_reason,
        visited_event_count,
        missing_event_ids,
        event_ids,
        forms,
        pdus,
    }
}

pub(in crate::rpc) fn get_room_digest_response(
    parts: Vec<PartDigest>,
) -> pb::GetRoomDigestResponse {
    let part = |PartDigest { events, digest }| pb::DigestPart { event_count: events, digest };
    pb::GetRoomDigestResponse { parts: parts.into_iter().map(part).collect() }
}

pub(in crate::rpc) fn list_event_flags_response(
    list: EventFlagsList,
) -> pb::ListEventFlagsResponse {
    let EventFlagsList { events, next_page_token } = list;
    let flags = |EventFlags { event_id, verdict: it, outlier, is_state }| pb::EventFlags {
        event_id,
        verdict: verdict(it).into(),
        outlier,
        is_state,
    };
    let events = events.into_iter().map(flags).collect();
    pb::ListEventFlagsResponse { events, next_page_token }
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

/// The events of a page as the response contains them.
#[derive(Debug, PartialEq, Eq)]
struct ServedEvents {
    /// Empty if the caller does not need them.
    event_ids: Vec<String>,
    /// A [`pb::EventForm`] for each PDU.
    forms: Vec<i32>,
    /// The PDUs as a JSON array.
    pdus: Bytes,
}

impl ServedEvents {
    fn new(events: Vec<ServedEvent>, omit_event_ids: bool) -> Self {
        let form = |it: &ServedEvent| match it.form {
            Form::Full => pb::EventForm::Full.into(),
            Form::Redacted => pb::EventForm::Redacted.into(),
        };
        let forms = events.iter().map(form).collect();
        let pdus = json_array(&events);
        let event_ids = if omit_event_ids {
            Vec::new()
        } else {
            events.into_iter().map(|it| it.event_id).collect()
        };
        Self { event_ids, forms, pdus }
    }
}

/// The PDUs as a JSON array, in one buffer that is allocated once.
fn json_array(events: &[ServedEvent]) -> Bytes {
    let pdus: usize = events.iter().map(|it| it.pdu.len() + 1).sum();
    let mut text = Vec::with_capacity(pdus + "[]".len());
    text.push(b'[');
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&event.pdu);
    }
    text.push(b']');
    text.into()
}

pub(in crate::rpc) fn batch_get_events_response(events: RoomEvents) -> pb::BatchGetEventsResponse {
    let RoomEvents { events, missing_event_ids, looked_at } = events;
    let events = events.into_iter().map(room_event).collect();
    let processed_count = u32::try_from(looked_at).unwrap_or(u32::MAX);
    pb::BatchGetEventsResponse { events, missing_event_ids, processed_count }
}

pub(in crate::rpc) fn list_events_response(list: EventList) -> pb::ListEventsResponse {
    let EventList { events, next_page_token } = list;
    let events = events.into_iter().map(room_event).collect();
    pb::ListEventsResponse { events, next_page_token }
}

fn verdict(verdict: Verdict) -> pb::Verdict {
    match verdict {
        Verdict::Accepted => pb::Verdict::Accepted,
        Verdict::SoftFailed => pb::Verdict::SoftFailed,
        Verdict::Rejected => pb::Verdict::Rejected,
    }
}

fn room_event(event: RoomEvent) -> pb::RoomEvent {
    let RoomEvent {
        event_id,
        pdu,
        arrival,
        verdict,
        outlier,
        redacted,
        state_after,
        state_after_token,
        unreadable,
        state_unknown,
        kept,
    } = event;
    let verdict = self::verdict(verdict);
    pb::RoomEvent {
        event_id,
        pdu,
        arrival,
        verdict: verdict.into(),
        outlier,
        redacted,
        state_after,
        state_after_page_token: state_after_token,
        unreadable,
        state_unknown,
        kept,
    }
}

pub(in crate::rpc) fn get_room_response(room: RoomSummary) -> pb::GetRoomResponse {
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
        outlier_count,
        rejected_count,
        soft_failed_count,
        unreadable_count,
        appended_count,
        forward_extremity_count,
        current_state_known: state_count.is_some(),
        state_entry_count: state_count.unwrap_or(0).into(),
        state_needed_event_ids: state_needed,
    }
}

pub(in crate::rpc) fn list_erased_members_response(list: IdList) -> pb::ListErasedMembersResponse {
    let IdList { ids: user_ids, next_page_token } = list;
    pb::ListErasedMembersResponse { user_ids, next_page_token }
}

pub(in crate::rpc) fn list_state_after_response(list: IdList) -> pb::ListStateAfterResponse {
    let IdList { ids: event_ids, next_page_token } = list;
    pb::ListStateAfterResponse { event_ids, next_page_token }
}

pub(in crate::rpc) fn list_rooms_response(rooms: RoomList) -> pb::ListRoomsResponse {
    let RoomList { room_ids, next_page_token } = rooms;
    pb::ListRoomsResponse { room_ids, next_page_token }
}

pub(in crate::rpc) fn list_purged_events_response(
    list: PurgedList,
) -> pb::ListPurgedEventsResponse {
    let PurgedList { event_id_hashes, next_page_token } = list;
    let event_id_hashes = event_id_hashes.iter().map(|it| it.to_vec().into()).collect();
    pb::ListPurgedEventsResponse { event_id_hashes, next_page_token }
}

pub(in crate::rpc) fn get_state_response(page: StatePage) -> pb::GetStateResponse {
    let StatePage { entries, next_page_token } = page;
    let entry = |it| {
        let StateEntry { event_type, state_key, event_id } = it;
        pb::StateEntry { r#type: event_type, state_key, event_id }
    };
    pb::GetStateResponse { entries: entries.into_iter().map(entry).collect(), next_page_token }
}

pub(in crate::rpc) fn explain_access_response(
    explanation: Explanation,
) -> pb::ExplainAccessResponse {
    let Explanation { access, rule, facts } = explanation;
    let outcome = match access {
        Access::Full => pb::AccessOutcome::Full,
        Access::Redacted => pb::AccessOutcome::Redacted,
        Access::NotServed => pb::AccessOutcome::NotServed,
        Access::Refused => pb::AccessOutcome::Refused,
    };
    pb::ExplainAccessResponse { outcome: outcome.into(), rule, facts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pdus_are_one_json_array() {
        let event = |pdu: &'static str| ServedEvent {
            event_id: "$a".to_owned(),
            pdu: pdu.into(),
            form: Form::Redacted,
        };
        for (pdus, expected) in [
            (&[][..], "[]"),
            (&["{}"], "[{}]"),
            (&[r#"{"a" : 1.0}"#, "{ }"], r#"[{"a" : 1.0},{ }]"#),
        ] {
            let events: Vec<ServedEvent> = pdus.iter().map(|it| event(it)).collect();
            let forms = vec![pb::EventForm::Redacted.into(); pdus.len()];
            let mut served = ServedEvents {
                event_ids: vec!["$a".to_owned(); pdus.len()],
                forms,
                pdus: expected.into(),
            };
            assert_eq!(ServedEvents::new(events.clone(), false), served);
            served.event_ids.clear();
            assert_eq!(ServedEvents::new(events, true), served);
        }
    }
}
