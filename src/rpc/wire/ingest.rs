//! The messages of `IngestService`.

use tonic::Status;

use super::{MAX_TEXT, brief};
use crate::{
    ingest::{
        DeleteProgress, NewEvent, Outcome, PurgeProgress, Refusal, RemoveProgress, Replace, Verdict,
    },
    pdu::PduError,
    proto::v1::{self as pb, ErrorReason, RefusalReason, append_events_response::Outcome as Wire},
    rpc::status,
    store::NotServedReason,
};

/// Checks the part of a request that is an error of the whole stream and not of one event.
///
/// # Errors
/// `VERDICT_INVALID` for a verdict that this build does not know, and `REPLACE_INVALID` in the same way.
/// To guess one could serve an event that a newer homeserver wants hidden.
pub(in crate::rpc) fn check_append(request: &pb::AppendEventsRequest) -> Result<(), Status> {
    if let Err(unknown) = pb::Verdict::try_from(request.verdict) {
        let text = format!("the verdict {} is not known to this build", unknown.0);
        return Err(status::refuse(ErrorReason::VerdictInvalid, &text));
    }
    if let Err(unknown) = pb::Replace::try_from(request.replace) {
        let text = format!("the value {} of `replace` is not known to this build", unknown.0);
        return Err(status::refuse(ErrorReason::ReplaceInvalid, &text));
    }
    Ok(())
}

/// The event of a request that passed [`check_append`].
pub(in crate::rpc) fn new_event(request: &pb::AppendEventsRequest) -> NewEvent<'_> {
    let pb::AppendEventsRequest {
        room_id,
        room_version,
        event_id,
        pdu,
        verdict: _,
        outlier,
        state_after,
        arrival,
        replace: _,
        kept,
    } = request;
    let replace = match request.replace() {
        pb::Replace::Unspecified => Replace::Never,
        pb::Replace::Changed => Replace::Changed,
        pb::Replace::All => Replace::All,
    };
    let verdict = match request.verdict() {
        pb::Verdict::Unspecified | pb::Verdict::Accepted => Verdict::Accepted,
        pb::Verdict::SoftFailed => Verdict::SoftFailed,
        pb::Verdict::Rejected => Verdict::Rejected,
    };
    NewEvent {
        room_id,
        room_version,
        event_id,
        pdu,
        verdict,
        outlier: *outlier,
        state_after,
        arrival: *arrival,
        replace,
        kept,
    }
}

pub(in crate::rpc) fn append_events_response(outcome: Outcome) -> pb::AppendEventsResponse {
    match outcome {
        Outcome::Appended {
            event_id,
            duplicate,
            replaced,
            redacted,
            unreadable,
            state_given,
            state_unknown,
        } => {
            let description = unreadable.as_ref().map(|it| brief(it.to_string()));
            let appended = Wire::Appended(pb::Appended {
                duplicate,
                redacted,
                purged: false,
                unreadable: unreadable.is_some(),
                unreadable_description: description.unwrap_or_default(),
                state_given,
                state_unknown,
                replaced,
            });
            pb::AppendEventsResponse { event_id, outcome: Some(appended) }
        }
        Outcome::Purged { event_id } => {
            let purged = pb::Appended { purged: true, ..pb::Appended::default() };
            // This may be the id that the caller sent: events of deleted rooms are not parsed.
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

pub(in crate::rpc) fn purge_history_response(progress: PurgeProgress) -> pb::PurgeHistoryResponse {
    let PurgeProgress { to_purge, removed, made_outliers, done } = progress;
    pb::PurgeHistoryResponse {
        total_event_count: to_purge,
        removed_event_count: removed,
        outlier_count: made_outliers,
        done,
    }
}

pub(in crate::rpc) fn remove_events_response(progress: RemoveProgress) -> pb::RemoveEventsResponse {
    let RemoveProgress { removed, made_outliers, done } = progress;
    pb::RemoveEventsResponse { removed_event_count: removed, outlier_count: made_outliers, done }
}

pub(in crate::rpc) fn delete_room_response(progress: DeleteProgress) -> pb::DeleteRoomResponse {
    let DeleteProgress { removed, done } = progress;
    pb::DeleteRoomResponse { removed_record_count: removed, done }
}

/// Why rooms are not to be served; `None` if they are to be served.
///
/// # Errors
/// `NOT_SERVED_REASON_INVALID` for a reason that only the service sets, or that this build does not
/// know.
pub(in crate::rpc) fn set_rooms_served(
    request: &pb::SetRoomsServedRequest,
) -> Result<Option<NotServedReason>, Status> {
    use pb::NotServedReason as Wire;
    match Wire::try_from(request.not_served_reason) {
        Ok(Wire::Unspecified) => Ok(None),
        Ok(Wire::Importing) => Ok(Some(NotServedReason::Importing)),
        Ok(Wire::PartialState) => Ok(Some(NotServedReason::PartialState)),
        Ok(Wire::Blocked) => Ok(Some(NotServedReason::Blocked)),
        Ok(Wire::Differs) => Ok(Some(NotServedReason::Differs)),
        Ok(Wire::Deriving) => {
            let text = "only the service sets the reason DERIVING";
            Err(status::refuse(ErrorReason::NotServedReasonInvalid, text))
        }
        Err(unknown) => {
            let text = format!("the reason {} is not known to this build", unknown.0);
            Err(status::refuse(ErrorReason::NotServedReasonInvalid, &text))
        }
    }
}

pub(in crate::rpc) fn not_served_reason(reason: NotServedReason) -> pb::NotServedReason {
    match reason {
        NotServedReason::Importing => pb::NotServedReason::Importing,
        NotServedReason::PartialState => pb::NotServedReason::PartialState,
        NotServedReason::Blocked => pb::NotServedReason::Blocked,
        NotServedReason::Differs => pb::NotServedReason::Differs,
        NotServedReason::Deriving => pb::NotServedReason::Deriving,
    }
}

/// Why an event was refused, as the value of a metric's label.
pub(in crate::rpc) fn refusal_name(refusal: &Refusal) -> &'static str {
    let name = refusal_reason(refusal).as_str_name();
    name.strip_prefix("REFUSAL_REASON_").unwrap_or(name)
}

fn refusal_reason(refusal: &Refusal) -> RefusalReason {
    match refusal {
        Refusal::RoomIdInvalid => RefusalReason::RoomIdInvalid,
        Refusal::RoomVersionMissing => RefusalReason::RoomVersionMissing,
        Refusal::RoomVersionUnknown(_) => RefusalReason::RoomVersionUnknown,
        Refusal::RoomVersionMismatch { .. } => RefusalReason::RoomVersionMismatch,
        Refusal::Pdu(fault) | Refusal::Unreadable(fault) => match fault {
            PduError::NotJson { .. } => RefusalReason::NotJson,
            PduError::BadJson(_) => RefusalReason::BadJson,
            PduError::Format { .. } => RefusalReason::FormatInvalid,
            PduError::TooLarge { .. } => RefusalReason::TooLarge,
        },
        Refusal::RoomMismatch { .. } => RefusalReason::RoomMismatch,
        Refusal::EventIdMismatch { .. } => RefusalReason::EventIdMismatch,
        Refusal::Conflict(_) => RefusalReason::Conflict,
        Refusal::StateInvalid { .. } | Refusal::StateTooLong(_) => RefusalReason::StateInvalid,
    }
}
