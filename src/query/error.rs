//! The reasons why a question is not answered.

use crate::{
    access::AccessRefusal,
    deadline::DeadlinePassed,
    store::{NotServedReason, StoreError},
};

/// The reason why a question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The asking server may not ask about the room. The reason is for the operator only.
    #[error("this server may not ask about this room")]
    NotAllowed(AccessRefusal),
    /// The room is not served to other servers. The reason is for the gateway only.
    #[error("this server may not ask about this room")]
    NotServed(NotServedReason),
    /// The room is not held. Only internal callers get this.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// The event is not held in the room.
    #[error("event {0} is not held in this room")]
    EventUnknown(String),
    /// The state asked for is not known.
    #[error("{0}")]
    StateUnknown(&'static str),
    /// The question names no event to start from.
    #[error("the request has no event id to start from")]
    EventIdsMissing,
    /// An event id is longer than event ids may be.
    #[error("an event id has at most 255 characters")]
    EventIdInvalid,
    /// The question has no limit.
    #[error("the request has no limit: set the maximum number of events to return")]
    LimitMissing,
    /// The limit is zero.
    #[error("the limit must be at least 1")]
    LimitInvalid,
    /// A part of a room is named by too many bits, or by bits that it does not have.
    #[error("prefix_bits is at most 12, and prefix has no other bits")]
    PrefixInvalid,
    /// The page token was not issued for this list.
    #[error("the page token does not belong to this list")]
    PageTokenInvalid,
    /// What is to be compared with our answer is no JSON array of events, or has too many.
    #[error("the answer to compare must be a JSON array of at most 1,000 events")]
    ComparisonInvalid,
    /// At each try, records were removed while the question was answered.
    #[error("events of room {0} are being removed; ask again in a moment")]
    RoomChanges(String),
    /// The caller does not wait for the answer any more.
    #[error(transparent)]
    Deadline(#[from] DeadlinePassed),
    /// The store failed, or a record is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}
