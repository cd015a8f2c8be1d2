//! One table: from each failure of a use case to a gRPC status with its reason.
//!
//! Reasons are sent as `google.rpc.ErrorInfo`, with the proto package as their domain. Callers decide
//! by them, never by messages. An internal cause is logged here, once, and is not sent.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{debug, error, warn};

use super::wire;
use crate::{
    access::AccessRefusal,
    context::feeder::{FeederBehind, LeaseLost},
    proto::v1::ErrorReason as Reason,
    query::QueryError,
    store::StoreError,
};

/// The domain of all reasons.
const DOMAIN: &str = "backscroll.history.v1";

/// When a caller may try again, for the reasons that say so.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The status code of each reason.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::CertificateMissing | Reason::TokenMissing | Reason::TokenInvalid => {
            Code::Unauthenticated
        }
        Reason::NotForGateways
        | Reason::GatewaysOnly
        | Reason::NotAllowed
        | Reason::RoomNotHeld
        | Reason::RoomNotServed => Code::PermissionDenied,
        Reason::Opening | Reason::Stopping | Reason::FeederBehind | Reason::StoreAway => {
            Code::Unavailable
        }
        Reason::Busy | Reason::DiskFull => Code::ResourceExhausted,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::RoomChanges | Reason::LeaseLost => Code::Aborted,
        Reason::StoreCorrupt => Code::DataLoss,
        Reason::StoreFailed | Reason::Internal => Code::Internal,
        Reason::RoomUnknown | Reason::EventUnknown | Reason::KeysUnknown | Reason::KeysExpired => {
            Code::NotFound
        }
        Reason::RoomVersionUnknown | Reason::StateUnknown | Reason::FeederActive => {
            Code::FailedPrecondition
        }
        Reason::EventIdsMissing
        | Reason::EventIdInvalid
        | Reason::LimitMissing
        | Reason::LimitInvalid
        | Reason::PageTokenInvalid
        | Reason::ServerNameInvalid
        | Reason::UserIdInvalid
        | Reason::KeysInvalid
        | Reason::VerdictInvalid
        | Reason::FeederNameInvalid
        | Reason::FeedInvalid
        | Reason::CursorInvalid
        | Reason::RoomIdInvalid
        | Reason::TooManyIds
        | Reason::ReplaceInvalid
        | Reason::NotServedReasonInvalid
        | Reason::PrefixInvalid
        | Reason::ComparisonInvalid => Code::InvalidArgument,
        Reason::Unspecified => Code::Unknown,
    }
}

/// A status for this reason. The message is for people; a long one is cut off.
pub(super) fn refuse(reason: Reason, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str_name(), DOMAIN, HashMap::new());
    Status::with_error_details(code(reason), wire::brief(message.to_owned()), details)
}

/// A status for this reason, with a value for programs beside it.
fn refuse_with(reason: Reason, message: &str, name: &str, value: &str) -> Status {
    let metadata = HashMap::from([(name.to_owned(), value.to_owned())]);
    let details = ErrorDetails::with_error_info(reason.as_str_name(), DOMAIN, metadata);
    Status::with_error_details(code(reason), wire::brief(message.to_owned()), details)
}

/// The status for a server that may not ask about a room; for a request with bounds for the feeder,
/// with whether that is final.
pub(super) fn not_allowed(refusal: AccessRefusal, is_final: Option<bool>) -> Status {
    debug!(%refusal, "a server may not read this room");
    let message = QueryError::NotAllowed(refusal).to_string();
    let reason = match refusal {
        AccessRefusal::RoomUnknown => Reason::RoomNotHeld,
        AccessRefusal::StateUnknown
        | AccessRefusal::Acl
        | AccessRefusal::OriginNotJoined
        | AccessRefusal::DestinationNotJoined => Reason::NotAllowed,
    };
    match is_final {
        None => refuse(reason, &message),
        Some(is_final) => refuse_with(reason, &message, "final", &is_final.to_string()),
    }
}

/// The status for a request whose bounds the feeder does not keep.
pub(super) fn feeder_behind(behind: FeederBehind) -> Status {
    refuse_with(Reason::FeederBehind, &behind.to_string(), "feeder", behind.name())
}

/// The status for a call with a lease that has ended.
pub(super) fn lease_lost() -> Status {
    refuse(Reason::LeaseLost, &LeaseLost.to_string())
}

/// A status for a reason that passes by itself, with the time after which to try again.
fn retry(reason: Reason, message: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.as_str_name(), DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code(reason), wire::brief(message.to_owned()), details)
}

/// The status for a failed query.
pub(super) fn of_query(failure: QueryError) -> Status {
    let message = failure.to_string();
    let reason = match failure {
        QueryError::NotAllowed(refusal) => return not_allowed(refusal, None),
        QueryError::NotServed(reason) => {
            let value = wire::not_served_reason(reason).as_str_name();
            return refuse_with(Reason::RoomNotServed, &message, "not_served_reason", value);
        }
        QueryError::RoomUnknown(_) => Reason::RoomUnknown,
        QueryError::EventUnknown(_) => Reason::EventUnknown,
        QueryError::StateUnknown(_) => Reason::StateUnknown,
        QueryError::EventIdsMissing => Reason::EventIdsMissing,
        QueryError::EventIdInvalid => Reason::EventIdInvalid,
        QueryError::LimitMissing => Reason::LimitMissing,
        QueryError::LimitInvalid => Reason::LimitInvalid,
        QueryError::PrefixInvalid => Reason::PrefixInvalid,
        QueryError::ComparisonInvalid => Reason::ComparisonInvalid,
        QueryError::PageTokenInvalid => Reason::PageTokenInvalid,
        QueryError::RoomChanges(_) => return retry(Reason::RoomChanges, &message),
        QueryError::Deadline(_) => return deadline_exceeded(),
        QueryError::Store(failure) => return of_store(&failure),
    };
    refuse(reason, &message)
}

/// The status for a failure of the store.
pub(super) fn of_store(failure: &StoreError) -> Status {
    if let StoreError::Missing { .. } = failure {
        debug!(%failure, "a record was removed before it was read");
        let message = "the requested records are being removed; try again in a moment";
        return retry(Reason::RoomChanges, message);
    }
    if let StoreError::Conflict { .. } = failure {
        debug!(%failure, "a decision met conflicts at every try");
        return retry(Reason::RoomChanges, &failure.to_string());
    }
    if failure.is_away() {
        warn!(%failure, "a call failed");
        return retry(Reason::StoreAway, "the database of the store cannot be reached; try again");
    }
    if let StoreError::BeingRepaired = failure {
        return retry(Reason::StoreAway, &failure.to_string());
    }
    error!(%failure, "the store failed");
    if failure.is_damage() {
        return refuse(Reason::StoreCorrupt, "a record of the store is damaged");
    }
    match failure {
        StoreError::DiskFull { .. } | StoreError::DatabaseFull(_) => {
            refuse(Reason::DiskFull, &failure.to_string())
        }
        StoreError::RoomVersionUnknown { .. } => {
            refuse(Reason::RoomVersionUnknown, &failure.to_string())
        }
        StoreError::Bug(_) => internal(),
        _ => refuse(Reason::StoreFailed, "the store failed"),
    }
}

/// The status that ends streams when the service stops.
pub(super) fn stopping() -> Status {
    let message = "the service is stopping; send again what was not acknowledged";
    refuse(Reason::Stopping, message)
}

/// The status of calls that arrive before the store is open.
#[must_use]
pub fn opening() -> Status {
    refuse(Reason::Opening, "the service is opening its store; try again in a moment")
}

/// The status of a call whose deadline passed before its answer was complete.
pub(super) fn deadline_exceeded() -> Status {
    refuse(Reason::DeadlineExceeded, "the deadline passed before the answer was complete")
}

/// The status of a call that would have to wait behind too many others.
pub(super) fn busy() -> Status {
    retry(Reason::Busy, "too many other requests are waiting; try again in a second")
}

/// The status of a call that failed because of a defect of this program.
pub(super) fn internal() -> Status {
    refuse(Reason::Internal, "the request failed; the log of the service contains the cause")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::store::EngineError;

    fn code_and_reason(status: &Status) -> (Code, String) {
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
            (EngineError::Away("of the test".to_owned()).into(), Code::Unavailable, "STORE_AWAY"),
            (StoreError::BeingRepaired, Code::Unavailable, "STORE_AWAY"),
            (
                StoreError::DatabaseFull("of the test".to_owned()),
                Code::ResourceExhausted,
                "DISK_FULL",
            ),
            (
                StoreError::File { path: "db".into(), source: file() },
                Code::Internal,
                "STORE_FAILED",
            ),
        ] {
            assert_eq!(
                code_and_reason(&of_store(&failure)),
                (code, reason.to_owned()),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_long_message_is_cut_off() {
        let room_id = "é".repeat(1 << 20);
        let status = of_query(QueryError::RoomUnknown(room_id));
        assert_eq!(code_and_reason(&status), (Code::NotFound, "ROOM_UNKNOWN".to_owned()));
        assert!(status.message().len() <= wire::MAX_TEXT);
    }

    fn all_reasons() -> Vec<Reason> {
        let reasons: Vec<Reason> = (1..).map_while(|it| Reason::try_from(it).ok()).collect();
        assert!(reasons.len() >= 30, "{reasons:?}");
        reasons
    }

    /// The code of a folder, without its tests.
    fn code_below(folder: &Path) -> String {
        let mut code = String::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                code += &code_below(&path);
            } else {
                let text = fs::read_to_string(path).unwrap();
                code += text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            }
        }
        code
    }

    /// The compiler sees to it that no reason is sent that the proto does not name. The other way
    /// round: the code of the handlers must use each reason that the proto names.
    #[test]
    fn every_reason_of_the_proto_is_sent() {
        let mut code = code_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rpc"));
        let table = code.find("fn code(reason: Reason)").unwrap();
        let end = table + code[table..].find("\n}\n").unwrap();
        code.replace_range(table..end, "");
        for reason in all_reasons() {
            let name = format!("Reason::{reason:?}");
            let is_used = code.match_indices(&name).any(|(at, _)| {
                !code[..at].ends_with("Refusal")
                    && !code[at + name.len()..].starts_with(|it: char| it.is_alphanumeric())
            });
            assert!(is_used, "{} is never sent", reason.as_str_name());
        }
    }

    /// Comments in the proto name each reason at a service or an RPC, and no reason that does not
    /// exist.
    #[test]
    fn the_proto_names_reasons_at_its_services() {
        const CODES: [&str; 8] = [
            "DEADLINE_EXCEEDED",
            "DATA_LOSS",
            "FAILED_PRECONDITION",
            "INVALID_ARGUMENT",
            "NOT_FOUND",
            "OUT_OF_RANGE",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
        ];
        let services = concat!(
            include_str!("../../proto/backscroll/history/v1/admin_service.proto"),
            include_str!("../../proto/backscroll/history/v1/feeder_service.proto"),
            include_str!("../../proto/backscroll/history/v1/history_service.proto"),
            include_str!("../../proto/backscroll/history/v1/ingest_service.proto"),
            include_str!("../../proto/backscroll/history/v1/key_service.proto"),
        );
        let comments = services.lines().filter_map(|it| it.trim().strip_prefix("//"));
        let words: BTreeSet<&str> = comments
            .flat_map(|it| it.split(|it: char| !it.is_ascii_uppercase() && it != '_'))
            .filter(|it| it.contains(char::is_alphabetic))
            .collect();
        for reason in all_reasons() {
            assert!(words.contains(reason.as_str_name()), "{} is at no RPC", reason.as_str_name());
        }
        for word in words.into_iter().filter(|it| it.contains('_')) {
            let is_known = Reason::from_str_name(word).is_some() || CODES.contains(&word);
            assert!(is_known, "{word} is neither a reason nor a code");
        }
    }

    /// The comment of each reason begins with its status code, as the table here has it.
    #[test]
    fn the_proto_names_the_code_of_each_reason() {
        let proto = include_str!("../../proto/backscroll/history/v1/error_reason.proto");
        let mut comment = String::new();
        let mut documented = BTreeSet::new();
        for line in proto.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("// ") {
                comment = if comment.is_empty() { text.to_owned() } else { comment };
            } else if let Some((name, _)) = line.split_once(" = ")
                && let Some(reason) = Reason::from_str_name(name)
            {
                if reason != Reason::Unspecified {
                    let stated = comment.split(':').next().unwrap_or_default();
                    let expected = format!("{:?}", code(reason)).to_lowercase();
                    assert_eq!(stated.replace('_', "").to_lowercase(), expected, "{name}");
                    documented.insert(reason.as_str_name());
                }
                comment.clear();
            } else {
                comment.clear();
            }
        }
        assert_eq!(documented.len(), all_reasons().len());
    }
}
