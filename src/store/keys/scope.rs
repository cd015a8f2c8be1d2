//! What the keys with a prefix have in common, for an engine that keeps the records of each room apart.

use super::{OF_ROOMS, RoomNum, Tag};

/// What a key, or all keys with a prefix, are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'k> {
    /// Every record.
    Everything,
    /// Records of the whole store.
    Store,
    /// The numbers of rooms, by their ids. Holds the id, or its beginning.
    RoomNumbers(&'k [u8]),
    /// One kind of record, in all rooms.
    AllRooms {
        /// The first byte of the keys.
        tag: u8,
    },
    /// One kind of record, in one room.
    Room {
        /// The first byte of the keys.
        tag: u8,
        /// The number of the room.
        room: RoomNum,
        /// What follows in the keys.
        rest: &'k [u8],
    },
}

/// What a key, or all keys with a prefix, are about. A prefix that ends inside the number of a room
/// is taken for one of the whole store: nothing makes such prefixes.
pub(crate) fn scope(prefix: &[u8]) -> Scope<'_> {
    let Some((tag, rest)) = prefix.split_first() else { return Scope::Everything };
    match Tag(*tag) {
        Tag::ROOM_BY_NAME => Scope::RoomNumbers(rest),
        kind if has_room(kind) => match rest.split_first_chunk::<4>() {
            Some((number, rest)) => {
                Scope::Room { tag: *tag, room: RoomNum(u32::from_be_bytes(*number)), rest }
            }
            None if rest.is_empty() => Scope::AllRooms { tag: *tag },
            None => Scope::Store,
        },
        _ => Scope::Store,
    }
}

/// The prefixes of all records of the whole store, one for each kind.
pub(crate) fn of_store() -> impl Iterator<Item = Vec<u8>> {
    tags().map(|it| vec![it]).filter(|it| scope(it) == Scope::Store)
}

/// Every first byte of keys, in ascending order.
pub(crate) fn tags() -> impl Iterator<Item = u8> {
    Tag::FORMAT.0..=LAST
}

/// Whether this is the first byte in the keys of the records of rooms.
pub(crate) fn is_room_tag(tag: u8) -> bool {
    tag == Tag::ROOM.0
}

/// The first byte in the keys of bodies that are not in a block.
pub(crate) fn body_tag() -> u8 {
    Tag::BODY.0
}

/// The first byte in the keys of states.
pub(crate) fn state_tag() -> u8 {
    Tag::STATE.0
}

/// The first byte in the keys of notes about what is to be derived again.
pub(crate) fn deriving_tag() -> u8 {
    Tag::DERIVE_AGAIN.0
}

/// Whether a key is that of the record of a room.
pub(crate) fn is_room(key: &[u8]) -> bool {
    key.len() == 5 && key.first() == Some(&Tag::ROOM.0)
}

/// The greatest first byte of a key.
const LAST: u8 = Tag::REPAIR.0;

fn has_room(kind: Tag) -> bool {
    matches!(kind, Tag::ROOM | Tag::DELETED_ROOM) || OF_ROOMS.contains(&kind)
}
