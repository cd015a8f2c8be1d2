//! Writing: from the bytes of an event to a durable place in the graph of its room.
//!
//! An event is appended in six steps
//! (<https://spec.matrix.org/v1.16/server-server-api/#checks-performed-on-receipt-of-a-pdu>):
//!
//! 1. **Parse.** The event must have the format and size that its room version asks for. An event
//!    that breaks the format is stored as an *unreadable event*: it has a place in the graph, is
//!    never served, and changes no state.
//! 2. **Compare.** Its id and its room must be those that the caller named.
//! 3. **Hash.** If its content does not match its content hash, its redacted form is stored.
//! 4. **Look up.** The room is locked. An event that is stored already changes nothing; other bytes
//!    under its id, or another verdict, are refused, unless the caller wants them replaced.
//! 5. **Place.** The event gets its order of arrival, its edges, and its effect on forward
//!    extremities and redactions.
//! 6. **Settle.** The state after it is worked out, if the states after its predecessors are known;
//!    then the states after the events that waited for it.
//!
//! Signatures and authorisation rules are the homeserver's job: its verdict (accepted, soft-failed
//! or rejected) is taken as it is.
//!
//! `append_one` in `append.rs` shows the steps in code. Steps 1 to 3 need no lock: events that are
//! appended together take them on all cores. Steps 4 to 6 are one decision about the room, which
//! consecutive events of the room share. Events that waited for an event are settled in decisions of
//! their own, of bounded size: a few before the event is acknowledged, the rest later (`backlog.rs`).
//! A note on disk makes sure that none is forgotten. What follows from a replaced verdict is
//! [derived again](derive_again) in the same way. [`append_all`] returns only what is on disk.

mod append;
mod backlog;
mod ban_redaction;
mod check;
#[cfg(test)]
mod costs;
mod delete_room;
mod derive_again;
mod erase_user;
mod existing;
mod expect;
mod extremities;
mod given_state;
mod place;
mod purge;
mod redaction;
mod redaction_again;
mod redaction_power;
mod rederive;
mod refusal;
mod remains;
mod remove_content;
mod remove_events;
mod replace;
mod resolve;
mod room_graph;
mod rooms_served;
mod settle;
mod state;
mod stored;
#[cfg(test)]
mod tests;

pub use append::{BatchOutcome, append_all, append_unflushed};
pub use backlog::{NotesLeft, recover, settle_waiting, work_off};
pub use ban_redaction::{is_redacted_by_ban, set_ban_redaction};
pub use delete_room::{DeleteError, DeleteProgress, delete_room};
pub use erase_user::set_user_erased;
pub use given_state::MAX_STATE_AFTER;
pub use place::MAX_PREV_EVENTS;
pub use purge::{PurgeError, PurgeProgress, PurgedHistory, purge_history, sweep_states};
pub use rederive::{
    Derived, Redacted, derive, derive_current_state, derive_redaction, link_again,
    note_redaction_again, settle_again,
};
pub use refusal::Refusal;
pub use remains::kept_text;
pub use remove_content::{ContentRemoval, Pass, remove_content, remove_content_of};
pub use remove_events::{MAX_REMOVED, RemoveError, RemoveProgress, RemovedEvents, remove_events};
pub use replace::Replace;
pub use rooms_served::{RoomIdsFault, check_room_ids, is_room_id, set_rooms_served};

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

/// An event to append, as given by the caller.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    /// The id of the event's room.
    pub room_id: &'a str,
    /// The room's version. It may be empty if the store holds the room.
    pub room_version: &'a str,
    /// The event's id. It may be empty if the bytes determine it.
    pub event_id: &'a str,
    /// The PDU, as JSON.
    pub pdu: &'a [u8],
    /// The homeserver's verdict on the event.
    pub verdict: Verdict,
    /// Whether the event is only stored, without a place in the graph.
    pub outlier: bool,
    /// The ids of all state events after the event, where its predecessors are not stored; empty
    /// otherwise.
    pub state_after: &'a [String],
    /// Its position in the caller's order of arrival; `None` puts it behind all others. Events from
    /// before the caller joined the room have negative positions.
    pub arrival: Option<i64>,
    /// What to do if the event is stored with other bytes or with another verdict.
    pub replace: Replace,
    /// What was kept of an event whose content was removed, by [`kept_text`]; empty otherwise.
    pub kept: &'a str,
}

impl<'a> NewEvent<'a> {
    /// An accepted event, with no state given and behind all others in the order of arrival.
    #[must_use]
    pub fn accepted(
        room_id: &'a str,
        room_version: &'a str,
        event_id: &'a str,
        pdu: &'a [u8],
    ) -> Self {
        Self {
            room_id,
            room_version,
            event_id,
            pdu,
            verdict: Verdict::Accepted,
            outlier: false,
            state_after: &[],
            arrival: None,
            replace: Replace::Never,
            kept: "",
        }
    }

    /// The event in a line of the room format. Lines are to be appended in the order of the file.
    #[must_use]
    pub fn of_line(header: &'a Header, line: &'a Line) -> Self {
        let Line { event_id, pdu, outlier, rejected, soft_failed, arrival, state_after, kept } =
            line;
        let pdu = pdu.get().as_bytes();
        Self {
            verdict: Verdict::of_flags(*rejected, *soft_failed),
            outlier: *outlier,
            arrival: *arrival,
            state_after,
            kept: kept.as_ref().map_or("", |it| it.get()),
            ..Self::accepted(&header.room_id, &header.room_version, event_id, pdu)
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

/// The result of appending an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The room holds the event.
    Appended {
        /// The id of the event.
        event_id: String,
        /// Whether the event was stored before, and nothing changed.
        duplicate: bool,
        /// Whether the event was stored before, and its bytes or its verdict were replaced.
        replaced: bool,
        /// Whether only its redacted form is stored, because its content hash did not match.
        redacted: bool,
        /// Why the event is an unreadable one; `None` if it can be read.
        unreadable: Option<PduError>,
        /// Whether the event was stored before, and the state given with it has been stored now.
        state_given: bool,
        /// Whether the state after the event is not known. It may become known later; to give it,
        /// append the event again with `state_after`.
        state_unknown: bool,
    },
    /// The event was purged, or its room deleted. It is not stored again, and nothing changed.
    Purged {
        /// The event's id; empty if it could not be derived.
        event_id: String,
    },
    /// The event was not stored, and nothing changed.
    Refused {
        /// The event's id; `None` if it could not be derived.
        event_id: Option<String>,
        /// Why the event was not stored.
        refusal: Refusal,
    },
}
