//! Appends recorded rooms to a store directly, without a socket.

use backscroll::{
    context::Context,
    ingest::{self, NewEvent, Outcome},
};

use super::rooms::RecordedRoom;

/// Appends a room's events in the order of the file; each of them must be stored.
pub(crate) fn append_room(cx: &Context, room: &RecordedRoom) {
    for line in &room.lines {
        let event = NewEvent::of_line(&room.header, line);
        let outcome = ingest::append_unflushed(cx, &event).unwrap();
        assert!(matches!(outcome, Outcome::Appended { .. }), "{}: {outcome:?}", room.name);
    }
    for user_id in &room.header.erased_users {
        cx.store.set_erased(user_id, true).unwrap();
    }
    cx.store.flush().unwrap();
}
