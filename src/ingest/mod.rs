//! Writing: from the bytes of an event to a durable place in the graph.
//!
//! What happens to an event, in order
//! (<https://spec.matrix.org/v1.16/server-server-api/#checks-performed-on-receipt-of-a-pdu>):
//!
//! 1. It is parsed and its format, size, id and room are checked: [`check`]. What is no event of
//!    this room is refused. What breaks the format of the room version is kept as an unreadable
//!    event: it has a place in the graph, is never served, and changes no state.
//! 2. Its signatures are checked where the keys are known. A bad one refuses it.
//! 3. Its content hash is checked. If it does not match, the redacted form is what is kept.
//! 4. The room is locked. An event that is held already changes nothing; other bytes under its
//!    id, or another verdict, are refused.
//! 5. It is placed: edges, extremities, order of arrival, redactions: [`place`].
//! 6. The state after it is worked out, if that of its predecessors is known, and then that of
//!    everything that waited for it: [`settle`].
//!
//! The authorisation rules are the caller's business: its verdict (outlier, rejected,
//! soft-failed) is taken as it is.
//!
//! Steps 1 to 3 look at no room: of events that come together they are taken on all cores. Steps
//! 4 to 6 are one atomic batch, which events of one room that come together share: [`mod@append`].
//! What waited for an event is settled in batches of its own, of bounded size: a few before the
//! event is acknowledged, the rest after that: [`backlog`]. A note on disk makes sure that nothing
//! forgets it. [`append_all`] returns only what is on disk.

mod append;
mod backlog;
mod check;
#[cfg(test)]
mod costs;
mod delete_room;
mod erase_user;
mod extremities;
mod held;
mod place;
mod purge;
mod redaction;
mod rederive;
mod refusal;
mod resolve;
mod settle;
mod state;

pub use append::{BatchOutcome, append_all, append_unflushed};
pub use backlog::{Left, recover, settle_waiting, work_off};
pub use delete_room::{DeleteError, DeleteProgress, delete_room};
pub use erase_user::set_user_erased;
pub use place::{MAX_PREV_EVENTS, MAX_STATE_AFTER};
pub use purge::{PurgeError, PurgeProgress, purge_history, sweep_states};
pub use rederive::{
    Derived, derive, derive_current_state, derive_redaction, link_again, note_redaction_again,
    settle_again,
};
pub use refusal::Refusal;

use crate::{
    pdu::PduError,
    room_format::{Header, Line},
    store::Flags,
};

/// What the homeserver decided about an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The event passed the authorisation rules.
    #[default]
    Accepted,
    /// The event passed them against the state before it, but not against the current state.
    SoftFailed,
    /// The event failed the authorisation rules.
    Rejected,
}

impl Verdict {
    /// The verdict that two flags express. An event with both flags counts as rejected: old stores
    /// and room files may hold such events.
    #[must_use]
    pub fn of_flags(rejected: bool, soft_failed: bool) -> Self {
        match (rejected, soft_failed) {
            (true, _) => Self::Rejected,
            (false, true) => Self::SoftFailed,
            (false, false) => Self::Accepted,
        }
    }
}

/// An event to append, as the caller gives it.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    /// The room.
    pub room_id: &'a str,
    /// The room's version; may be empty when the room is known.
    pub room_version: &'a str,
    /// The event's id; may be empty.
    pub event_id: &'a str,
    /// The PDU.
    pub pdu: &'a [u8],
    /// The homeserver's verdict.
    pub verdict: Verdict,
    /// Whether the event is only stored, without a place in the graph.
    pub outlier: bool,
    /// The ids of all state events after it, where its predecessors are not held.
    pub state_after: &'a [String],
    /// Its place in the caller's order of arrival.
    pub arrival: Option<i64>,
}

impl<'a> NewEvent<'a> {
    /// The event of a line of a room's file, to be appended in the order of the file.
    #[must_use]
    pub fn of_line(header: &'a Header, line: &'a Line) -> Self {
        let Line { event_id, pdu, outlier, rejected, soft_failed, state_after } = line;
        Self {
            room_id: &header.room_id,
            room_version: &header.room_version,
            event_id,
            pdu: pdu.get().as_bytes(),
            verdict: Verdict::of_flags(*rejected, *soft_failed),
            outlier: *outlier,
            state_after,
            arrival: None,
        }
    }

    fn flags(&self) -> Flags {
        Flags {
            outlier: self.outlier,
            rejected: self.verdict == Verdict::Rejected,
            soft_failed: self.verdict == Verdict::SoftFailed,
            ..Flags::default()
        }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the graph.
    Appended {
        /// Its id.
        event_id: String,
        /// It was held before, and nothing changed.
        duplicate: bool,
        /// Only its redacted form is held, since its content hash did not match.
        redacted: bool,
        /// It is held as an unreadable event, and why it cannot be read.
        unreadable: Option<PduError>,
        /// It was held before, its state was not known, and the state that came with it now was
        /// taken.
        state_given: bool,
        /// The state after it is not known. It may still come: append the event again with it.
        state_unknown: bool,
    },
    /// It was purged, or its room deleted: it stays away, and nothing changed.
    Purged {
        /// Its id; empty when it could not be worked out.
        event_id: String,
    },
    /// It was not taken; nothing changed.
    Refused {
        /// Its id, if that could be worked out.
        event_id: Option<String>,
        /// Why.
        refusal: Refusal,
    },
}
