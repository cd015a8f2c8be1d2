//! The use case behind `SetRoomsServed`.

use crate::store::{NotServedReason, Store, StoreError};

/// The most rooms of one call.
const MAX_ROOMS: usize = 1_000;
/// The greatest length of a room id, in bytes.
const MAX_ROOM_ID: usize = 255;

/// Why no call can be about these rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomIdsFault {
    /// There are too many.
    #[error("a call names at most {MAX_ROOMS} rooms")]
    TooMany,
    /// One of them is not the id of a room.
    #[error("a room id begins with ! and has at most {MAX_ROOM_ID} bytes")]
    Invalid,
}

/// Whether a text may be the id of a room
/// (<https://spec.matrix.org/v1.16/appendices/#room-ids>).
#[must_use]
pub fn is_room_id(text: &str) -> bool {
    text.starts_with('!') && text.len() <= MAX_ROOM_ID
}

/// Checks the rooms of a call.
///
/// # Errors
/// There are too many of them, or one of them is not the id of a room.
pub fn check_room_ids(room_ids: &[String]) -> Result<(), RoomIdsFault> {
    if room_ids.len() > MAX_ROOMS {
        return Err(RoomIdsFault::TooMany);
    }
    if room_ids.iter().all(|it| is_room_id(it)) { Ok(()) } else { Err(RoomIdsFault::Invalid) }
}

/// Decides that rooms are not served to other servers, for a reason; with `None`, that they are. The
/// rooms need not be held. The change is on disk when this returns.
///
/// # Errors
/// When the change cannot be written; whether it takes effect is then unknown.
pub fn set_rooms_served(
    store: &Store,
    room_ids: &[String],
    reason: Option<NotServedReason>,
) -> Result<(), StoreError> {
    store.set_rooms_served(room_ids, reason)
}
