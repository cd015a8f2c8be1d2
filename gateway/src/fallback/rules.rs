//! Why the homeserver answers a request.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::proto::ERROR_DOMAIN;

/// Why the homeserver answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FallbackReason {
    /// The history service is not available.
    HistoryAway,
    /// The history service did not answer in its share of the time.
    HistorySlow,
    /// The history service failed.
    HistoryFailed,
    /// Records of the room are being removed.
    RoomChanges,
    /// There is no feeder.
    FeederAway,
    /// The feeder has not caught up yet: the first import or a sweep is owed.
    FeederNotReady,
    /// The feeder is further behind the homeserver than allowed.
    FeederBehind,
    /// The history service does not hold the room.
    RoomNotHeld,
    /// The history service does not serve the room.
    RoomNotServed,
    /// The answer is negative, and could change with the next tick of the feeder.
    NotFinal,
    /// The keys of the requesting server cannot be had.
    NoKeys,
    /// The first request of the server in a minute.
    FirstOfOrigin,
    /// The homeserver answers everything: its answers are compared only.
    Shadow,
    /// The gateway does not answer this endpoint itself.
    PassThrough,
}

impl FallbackReason {
    /// The words of all reasons.
    pub(super) const WORDS: [&str; 14] = [
        Self::HistoryAway.word(),
        Self::HistorySlow.word(),
        Self::HistoryFailed.word(),
        Self::RoomChanges.word(),
        Self::FeederAway.word(),
        Self::FeederNotReady.word(),
        Self::FeederBehind.word(),
        Self::RoomNotHeld.word(),
        Self::RoomNotServed.word(),
        Self::NotFinal.word(),
        Self::NoKeys.word(),
        Self::FirstOfOrigin.word(),
        Self::Shadow.word(),
        Self::PassThrough.word(),
    ];

    /// The reason in the `X-Backscroll` header, in metrics and in the log.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::HistoryAway => "history_away",
            Self::HistorySlow => "history_slow",
            Self::HistoryFailed => "history_failed",
            Self::RoomChanges => "room_changes",
            Self::FeederAway => "feeder_away",
            Self::FeederNotReady => "feeder_not_ready",
            Self::FeederBehind => "feeder_behind",
            Self::RoomNotHeld => "room_not_held",
            Self::RoomNotServed => "room_not_served",
            Self::NotFinal => "not_final",
            Self::NoKeys => "no_keys",
            Self::FirstOfOrigin => "first_of_origin",
            Self::Shadow => "shadow",
            Self::PassThrough => "pass_through",
        }
    }

    /// Whether the history service has failed to give an answer, so that its own error says what
    /// happened if the homeserver is away too.
    pub(crate) const fn is_failure_of_history(self) -> bool {
        matches!(
            self,
            Self::HistoryAway
                | Self::HistorySlow
                | Self::HistoryFailed
                | Self::RoomChanges
                | Self::FeederAway
                | Self::FeederNotReady
                | Self::FeederBehind
        )
    }
}

/// Why the homeserver answers what the history service has refused or failed to answer. `None` if its
/// answer stands: the requester is not allowed to ask, the request is invalid, or there are too many.
pub(crate) fn reason_of(status: &Status) -> Option<FallbackReason> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
    let reason = info.map_or("", |info| info.reason.as_str());
    let metadata = |name: &str| info.and_then(|info| info.metadata.get(name)).map(String::as_str);
    match status.code() {
        Code::PermissionDenied => match reason {
            // Of a history service that does not say whether it is final, it is not.
            "NOT_ALLOWED" if metadata("final") == Some("true") => None,
            "NOT_ALLOWED" => Some(FallbackReason::NotFinal),
            "ROOM_NOT_HELD" => Some(FallbackReason::RoomNotHeld),
            "ROOM_NOT_SERVED" => Some(FallbackReason::RoomNotServed),
            _ => Some(FallbackReason::HistoryFailed),
        },
        Code::Unavailable if reason == "FEEDER_BEHIND" => Some(match metadata("feeder") {
            Some("NOT_READY") => FallbackReason::FeederNotReady,
            Some("BEHIND") => FallbackReason::FeederBehind,
            _ => FallbackReason::FeederAway,
        }),
        Code::Unavailable => Some(FallbackReason::HistoryAway),
        Code::DeadlineExceeded | Code::Cancelled => Some(FallbackReason::HistorySlow),
        Code::Aborted => Some(FallbackReason::RoomChanges),
        Code::InvalidArgument | Code::ResourceExhausted => None,
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Some(FallbackReason::HistoryFailed),
    }
}
