//! Why an event is not stored.

use super::{MAX_STATE_AFTER, Outcome};
use crate::{pdu::PduError, store::StoreError};

/// Why an event is refused. The text names the fault and the part of the event that has it, but
/// never quotes content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The room id is not valid.
    #[error("not a room id: it must begin with `!` and have at most 255 bytes")]
    RoomIdInvalid,
    /// The room is not stored yet, and the event was sent without a room version.
    #[error("the room is not held, so its first event must name the room version")]
    RoomVersionMissing,
    /// The room version is not known to this build.
    #[error("room version `{0}` is not known; known are 1 to 12")]
    RoomVersionUnknown(String),
    /// The room is stored with another version.
    #[error("the room has version {held}, but the event names version {given}")]
    RoomVersionMismatch {
        /// The version of the room.
        held: String,
        /// The version that the caller gave.
        given: String,
    },
    /// The PDU is not JSON, too large, or not an object.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// The PDU breaks the format of its room version, and was sent without its id.
    #[error("{0}; if it is sent again with its event id, it is stored as an unreadable event")]
    Unreadable(PduError),
    /// The PDU belongs to another room.
    #[error("the PDU belongs to room {found}, not to {expected}")]
    RoomMismatch {
        /// The room that the caller named.
        expected: String,
        /// The room that the PDU names.
        found: String,
    },
    /// The PDU has another id.
    #[error("the PDU's id is {found}, not {expected}")]
    EventIdMismatch {
        /// The id that the caller gave.
        expected: String,
        /// The id of the PDU.
        found: String,
    },
    /// The room holds something else under the event's id.
    #[error("{0}")]
    Conflict(&'static str),
    /// `state_after` names too many events.
    #[error("state_after: {0} events, at most {MAX_STATE_AFTER} are accepted")]
    StateTooLong(usize),
    /// `state_after` cannot be the state after the event.
    #[error("state_after: {event_id} {what}")]
    StateInvalid {
        /// The event that is wrong in it.
        event_id: String,
        /// The fault of that event.
        what: &'static str,
    },
}

/// A refused event, and the reason for the refusal.
#[derive(Clone)]
pub(super) struct RefusedEvent {
    /// The event's id; `None` if it could not be derived.
    pub(super) event_id: Option<String>,
    pub(super) refusal: Refusal,
}

impl RefusedEvent {
    pub(super) fn of(event_id: &str, refusal: Refusal) -> Self {
        Self { event_id: Some(event_id.to_owned()), refusal }
    }

    pub(super) fn without_id(refusal: Refusal) -> Self {
        Self { event_id: None, refusal }
    }
}

impl From<RefusedEvent> for Outcome {
    fn from(refused: RefusedEvent) -> Self {
        let RefusedEvent { event_id, refusal } = refused;
        Self::Refused { event_id, refusal }
    }
}

/// Why an event is not stored: a refusal is the answer for this event, a failing store ends the
/// whole call.
pub(super) enum NotTaken {
    Refused(RefusedEvent),
    Store(StoreError),
}

impl NotTaken {
    pub(super) fn refused(event_id: &str, refusal: Refusal) -> Self {
        Self::Refused(RefusedEvent::of(event_id, refusal))
    }
}

impl From<RefusedEvent> for NotTaken {
    fn from(refused: RefusedEvent) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for NotTaken {
    fn from(failure: StoreError) -> Self {
        Self::Store(failure)
    }
}
