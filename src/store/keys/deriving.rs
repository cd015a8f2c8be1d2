//! The keys of notes about what is to be derived again.

use super::{EventNum, Key, RoomNum, Tag};

/// The prefix of all notes about what is to be derived again, in all rooms.
pub(crate) fn all_deriving() -> Vec<u8> {
    Key::new(Tag::DERIVE_AGAIN).0
}

/// The note that a room is being derived again; also the prefix of its notes about events.
pub(crate) fn deriving(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::DERIVE_AGAIN, room).0
}

/// Whether a key is that of the note that a room is being derived again.
pub(crate) fn is_deriving(key: &[u8]) -> bool {
    key.len() == 5 && key.first() == Some(&Tag::DERIVE_AGAIN.0)
}

/// The note about what is to be derived again for an event.
pub(crate) fn derive_again(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key(deriving(room)).number(event.0).0
}
