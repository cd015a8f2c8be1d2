//! Why an event is not taken.

use super::MAX_STATE_AFTER;
use crate::pdu::PduError;

/// Why an event is not taken. The text says what is wrong and with which part, never what an
/// event says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a room id.
    #[error("not a room id: it must begin with `!` and have at most 255 bytes")]
    RoomIdInvalid,
    /// The first event of a room came without a room version.
    #[error("the room is not known yet, so its first event must come with the room version")]
    RoomVersionMissing,
    /// Not a room version that we know.
    #[error("room version `{0}` is not known; known are 1 to 12")]
    RoomVersionUnknown(String),
    /// Not the room version of the room.
    #[error("the room has version {held}, the event came with version {given}")]
    RoomVersionMismatch {
        /// What the room has.
        held: String,
        /// What came.
        given: String,
    },
    /// The PDU breaks a rule of its room version.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// The PDU breaks a rule of its room version, and came without its id.
    #[error("{0}; sent again with its event id, it is held as an unreadable event")]
    Unreadable(PduError),
    /// It belongs to another room.
    #[error("the PDU belongs to room {found}, not to {expected}")]
    RoomMismatch {
        /// What the caller said.
        expected: String,
        /// What the PDU says.
        found: String,
    },
    /// Its id is another.
    #[error("the PDU's id is {found}, not {expected}")]
    EventIdMismatch {
        /// What the caller said.
        expected: String,
        /// What the PDU's id is.
        found: String,
    },
    /// Something else is held under its id.
    #[error("{0}")]
    Conflict(&'static str),
    /// `state_after` names more events than are taken.
    #[error("state_after: {0} events, at most {MAX_STATE_AFTER} are taken")]
    StateTooLong(usize),
    /// `state_after` cannot be the state after the event.
    #[error("state_after: {event_id} {what}")]
    StateInvalid {
        /// Which event.
        event_id: String,
        /// What is wrong with it.
        what: &'static str,
    },
}
