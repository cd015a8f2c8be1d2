//! One table: from every way in which a use case can fail to a gRPC status and its reason.
//!
//! Reasons travel as `google.rpc.ErrorInfo` with the package as domain; callers match on them,
//! never on messages. What went wrong inside is logged here, once, and not told.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{debug, error};

use super::wire;
use crate::{query::QueryError, store::StoreError};

/// The domain of every reason.
const DOMAIN: &str = "backscroll.history.v1";

pub(super) fn of_query(failure: QueryError) -> Status {
    let text = failure.to_string();
    match failure {
        QueryError::NotAllowed(refusal) => {
            debug!(%refusal, "a server may not ask");
            with_reason(Code::PermissionDenied, "NOT_ALLOWED", &text)
        }
        QueryError::RoomUnknown(_) => with_reason(Code::NotFound, "ROOM_UNKNOWN", &text),
        QueryError::EventUnknown(_) => with_reason(Code::NotFound, "EVENT_UNKNOWN", &text),
        QueryError::StateUnknown(_) => {
            with_reason(Code::FailedPrecondition, "STATE_UNKNOWN", &text)
        }
        QueryError::EventIdsMissing => {
            with_reason(Code::InvalidArgument, "EVENT_IDS_MISSING", &text)
        }
        QueryError::EventIdInvalid => with_reason(Code::InvalidArgument, "EVENT_ID_INVALID", &text),
        QueryError::LimitMissing => with_reason(Code::InvalidArgument, "LIMIT_MISSING", &text),
        QueryError::LimitInvalid => with_reason(Code::InvalidArgument, "LIMIT_INVALID", &text),
        QueryError::PageTokenInvalid => {
            with_reason(Code::InvalidArgument, "PAGE_TOKEN_INVALID", &text)
        }
        QueryError::RoomChanges(_) => room_changes(&text),
        QueryError::Deadline(_) => deadline_exceeded(),
        QueryError::Store(failure) => of_store(&failure),
    }
}

pub(super) fn of_store(failure: &StoreError) -> Status {
    if let StoreError::Missing { .. } = failure {
        debug!(%failure, "removed while it was to be read");
        return room_changes("what was to be read is being removed; ask again in a moment");
    }
    if let StoreError::Conflict { .. } = failure {
        debug!(%failure, "a decision met conflicts at every try");
        return room_changes(&failure.to_string());
    }
    error!(%failure, "the store failed");
    if failure.is_damage() {
        return with_reason(Code::DataLoss, "STORE_CORRUPT", "a record of the store is damaged");
    }
    match failure {
        StoreError::DiskFull { .. } => {
            with_reason(Code::ResourceExhausted, "DISK_FULL", &failure.to_string())
        }
        StoreError::RoomVersionUnknown { .. } => {
            with_reason(Code::FailedPrecondition, "ROOM_VERSION_UNKNOWN", &failure.to_string())
        }
        StoreError::Bug(_) => internal(),
        _ => with_reason(Code::Internal, "STORE_FAILED", "the store failed"),
    }
}

pub(super) fn invalid(reason: &'static str, message: &str) -> Status {
    with_reason(Code::InvalidArgument, reason, message)
}

pub(super) fn not_found(reason: &'static str, message: &str) -> Status {
    with_reason(Code::NotFound, reason, message)
}

pub(super) fn stopping() -> Status {
    let text = "the service is stopping; send what was not acknowledged again";
    with_reason(Code::Unavailable, "STOPPING", text)
}

/// Of calls that come before the store is open.
#[must_use]
pub fn opening() -> Status {
    let text = "the service is opening its store; ask again in a moment";
    with_reason(Code::Unavailable, "OPENING", text)
}

pub(super) fn not_allowed(reason: &'static str, message: &str) -> Status {
    with_reason(Code::PermissionDenied, reason, message)
}

pub(super) fn unauthenticated(reason: &'static str, message: &str) -> Status {
    with_reason(Code::Unauthenticated, reason, message)
}

/// Nothing was wrong but the time.
pub(super) fn deadline_exceeded() -> Status {
    with_reason(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        "the deadline passed before the answer",
    )
}

/// Too many others wait already.
pub(super) fn busy() -> Status {
    let text = "too many questions wait to be answered; ask again in a second";
    let mut details = ErrorDetails::with_error_info("BUSY", DOMAIN, HashMap::new());
    details.set_retry_info(Some(Duration::from_secs(1)));
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// Nothing is wrong: a purge goes on, or a room is being deleted.
fn room_changes(message: &str) -> Status {
    let mut details = ErrorDetails::with_error_info("ROOM_CHANGES", DOMAIN, HashMap::new());
    details.set_retry_info(Some(Duration::from_secs(1)));
    Status::with_error_details(Code::Aborted, wire::brief(message.to_owned()), details)
}

pub(super) fn internal() -> Status {
    with_reason(Code::Internal, "INTERNAL", "the request failed; the service's log says why")
}

fn with_reason(code: Code, reason: &str, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, wire::brief(message.to_owned()), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &Status) -> (Code, String) {
        (status.code(), status.get_details_error_info().map(|it| it.reason).unwrap_or_default())
    }

    #[test]
    fn only_damage_is_data_loss() {
        let missing = || StoreError::missing("body", b"key");
        let conflict = || StoreError::Conflict { room_id: "!a:one.example".to_owned() };
        let file = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let unknown = || StoreError::RoomVersionUnknown {
            room_id: "!a:one.example".to_owned(),
            version: "99".to_owned(),
        };
        for (failure, code, reason) in [
            (StoreError::corrupt("body", b"key"), Code::DataLoss, "STORE_CORRUPT"),
            (missing().at_rest(), Code::DataLoss, "STORE_CORRUPT"),
            (missing(), Code::Aborted, "ROOM_CHANGES"),
            (conflict(), Code::Aborted, "ROOM_CHANGES"),
            (unknown(), Code::FailedPrecondition, "ROOM_VERSION_UNKNOWN"),
            (StoreError::Bug("of the test"), Code::Internal, "INTERNAL"),
            (
                StoreError::File { path: "db".into(), source: file() },
                Code::Internal,
                "STORE_FAILED",
            ),
        ] {
            assert_eq!(told(&of_store(&failure)), (code, reason.to_owned()), "{failure}");
        }
    }

    #[test]
    fn what_a_caller_says_at_length_is_not_said_back() {
        let room_id = "é".repeat(1 << 20);
        let status = of_query(QueryError::RoomUnknown(room_id));
        assert_eq!(told(&status), (Code::NotFound, "ROOM_UNKNOWN".to_owned()));
        assert!(status.message().len() <= wire::MAX_TEXT);
    }
}
