//! Recorded rooms into a store, without a socket in between.

use backscroll::{
    context::Context,
    ingest::{self, NewEvent, Outcome, Verdict},
};

use super::rooms::RecordedRoom;

/// Appends a room's events in the order of the file; every one of them must be taken.
pub(crate) fn append_room(cx: &Context, room: &RecordedRoom) {
    for line in &room.lines {
        let event = NewEvent {
            room_id: &room.header.room_id,
            room_version: &room.header.room_version,
            event_id: &line.event_id,
            pdu: line.pdu.get().as_bytes(),
            verdict: Verdict {
                outlier: line.outlier,
                rejected: line.rejected,
                soft_failed: line.soft_failed,
            },
            state_after: &line.state_after,
            arrival: None,
        };
        let outcome = ingest::append(cx, &event).unwrap();
        assert!(matches!(outcome, Outcome::Appended { .. }), "{}: {outcome:?}", room.name);
    }
    for user_id in &room.header.erased_users {
        cx.store.set_erased(user_id, true).unwrap();
    }
    cx.store.flush().unwrap();
}
