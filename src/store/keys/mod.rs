//! Every key on disk; no other module makes keys. Parts are big-endian and of fixed width, except
//! that the last may have any length, so that keys sort as their parts do. A tag never gets a second
//! meaning.

mod content;
mod deriving;
mod leases;
mod parts;
mod scope;

pub(crate) use content::{
    all_ban_redactions, all_content, ban_redaction, ban_search, ban_searches, banned_user,
    content_due, is_content_due, of_content, redacted_search, remains,
};
pub(crate) use deriving::{all_deriving, derive_again, deriving, is_deriving};
pub(crate) use leases::{is_lease, lease, measurement, repair};
pub use parts::Part;
pub(crate) use parts::{Of, Parts, needed_event, part, parts};
pub(crate) use scope::{
    Scope, body_tag, deriving_tag, is_room, is_room_tag, of_store, scope, state_tag, tags,
};
use sha2::{Digest as _, Sha256};

use super::{Arrival, EventNum, RoomNum, StateNum};

/// The kind of a record: the first byte of its key. The keyspace is drawn in [`super`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u8);

impl Tag {
    const FORMAT: Self = Self(0x00);
    const ROOM_BY_NAME: Self = Self(0x01);
    const ROOM: Self = Self(0x02);
    const EVENT: Self = Self(0x03);
    const PAGE: Self = Self(0x04);
    const BODY: Self = Self(0x05);
    const MISSING: Self = Self(0x06);
    const WAITING: Self = Self(0x07);
    const ARRIVAL: Self = Self(0x08);
    const STATE: Self = Self(0x09);
    const REDACTION_3: Self = Self(0x0a);
    const ERASED_USER: Self = Self(0x0b);
    const GIVEN_STATE: Self = Self(0x0c);
    const UNSETTLED: Self = Self(0x0d);
    const SERVER_KEYS: Self = Self(0x0e);
    const WANTED: Self = Self(0x0f);
    const DELETED_ROOM: Self = Self(0x10);
    const MARK_2: Self = Self(0x11);
    const BLOCK: Self = Self(0x12);
    const EXTREMITY: Self = Self(0x13);
    const REDACTION: Self = Self(0x14);
    const POWER: Self = Self(0x15);
    const LATER_REDACTION: Self = Self(0x16);
    const DERIVE_AGAIN: Self = Self(0x17);
    const CURSOR: Self = Self(0x18);
    const ROOM_NOT_SERVED: Self = Self(0x19);
    const CONTENT: Self = Self(0x1a);
    const BAN_REDACTION: Self = Self(0x1b);
    const LEASE: Self = Self(0x1c);
    const REPAIR: Self = Self(0x1d);
}

/// Every kind of record whose key continues with the number of a room, except the room's own.
const OF_ROOMS: [Tag; 17] = [
    Tag::EVENT,
    Tag::PAGE,
    Tag::BODY,
    Tag::BLOCK,
    Tag::MISSING,
    Tag::WAITING,
    Tag::ARRIVAL,
    Tag::STATE,
    Tag::REDACTION,
    Tag::GIVEN_STATE,
    Tag::UNSETTLED,
    Tag::WANTED,
    Tag::EXTREMITY,
    Tag::POWER,
    Tag::LATER_REDACTION,
    Tag::DERIVE_AGAIN,
    Tag::CONTENT,
];

/// The number of events in a page of nodes, and in a block of bodies.
pub const PAGE_EVENTS: u32 = 32;

/// A key that is being built.
struct Key(Vec<u8>);

impl Key {
    fn new(tag: Tag) -> Self {
        let mut key = Vec::with_capacity(32);
        key.push(tag.0);
        Self(key)
    }

    fn of_room(tag: Tag, room: RoomNum) -> Self {
        Self::new(tag).number(room.0)
    }

    fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// An id in a key: the first half of its SHA-256. Finding two ids with the same half takes 2^64
/// hashes, and the second id would be refused as a conflict with the first.
pub(crate) fn hashed(id: impl AsRef<[u8]>) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let mut half = [0; 16];
    half.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    half
}

/// The version of the layout.
pub(crate) fn format() -> Vec<u8> {
    Key::new(Tag::FORMAT).0
}

/// The number of flushes. It is written at every flush, and with it sled rewrites the records on the
/// same page of its tree: at this key these are the ids and records of rooms, which are small and
/// change as often.
pub(crate) fn mark() -> Vec<u8> {
    Key::new(Tag::FORMAT).bytes(b"mark").0
}

/// The note that the store is being copied into.
pub(crate) fn being_copied() -> Vec<u8> {
    Key::new(Tag::FORMAT).bytes(b"copy").0
}

/// The key of [`mark`] before format 3, beside the first blocks.
pub(crate) fn mark_2() -> Vec<u8> {
    Key::new(Tag::MARK_2).0
}

/// The number of a room, by its id.
pub(crate) fn room_by_name(room_id: &str) -> Vec<u8> {
    Key::new(Tag::ROOM_BY_NAME).bytes(room_id.as_bytes()).0
}

/// Whether this is a key of [`room_by_name`].
pub(crate) fn is_room_by_name(key: &[u8]) -> bool {
    key.first() == Some(&Tag::ROOM_BY_NAME.0)
}

/// The prefix of all rooms, by their ids.
pub(crate) fn rooms_by_name() -> Vec<u8> {
    Key::new(Tag::ROOM_BY_NAME).0
}

/// The prefix of all records of rooms.
pub(crate) fn rooms() -> Vec<u8> {
    Key::new(Tag::ROOM).0
}

/// The record of a room.
pub(crate) fn room(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::ROOM, room).0
}

/// The number of an event, by its id.
pub(crate) fn event(room: RoomNum, event_id: &str) -> Vec<u8> {
    Key::of_room(Tag::EVENT, room).bytes(&hashed(event_id)).0
}

/// The prefix of all event ids of a room, by their hashes.
pub(crate) fn events(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::EVENT, room).0
}

/// The key of [`event`], by the hash of the id.
pub(crate) fn event_by_hash(room: RoomNum, hash: [u8; 16]) -> Vec<u8> {
    Key::of_room(Tag::EVENT, room).bytes(&hash).0
}

/// The hash in a key of [`event`]; `None` if the key is malformed.
pub(crate) fn hash_of(key: &[u8]) -> Option<[u8; 16]> {
    key.get(5..)?.try_into().ok()
}

/// A page of nodes.
pub(crate) fn page(room: RoomNum, page: u32) -> Vec<u8> {
    Key::of_room(Tag::PAGE, room).number(page).0
}

/// The prefix of all pages of nodes of a room.
pub(crate) fn pages(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::PAGE, room).0
}

/// The body of an event, in a record of its own.
pub(crate) fn body(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key::of_room(Tag::BODY, room).number(event.0).0
}

/// The bodies of a page of events, in a block.
pub(crate) fn block(room: RoomNum, page: u32) -> Vec<u8> {
    Key::of_room(Tag::BLOCK, room).number(page).0
}

/// The prefix of all references to events that are not placed, in all rooms.
pub(crate) fn all_gaps() -> Vec<u8> {
    Key::new(Tag::MISSING).0
}

/// The prefix of all events whose state waits for that of another, in all rooms.
pub(crate) fn all_waiting() -> Vec<u8> {
    Key::new(Tag::WAITING).0
}

/// The prefix of all references to events that are not placed, in a room.
pub(crate) fn all_missing(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::MISSING, room).0
}

/// The prefix of all references to an event that is not placed.
pub(crate) fn missing(room: RoomNum, event_id: &str) -> Vec<u8> {
    Key::of_room(Tag::MISSING, room).bytes(&hashed(event_id)).0
}

/// A reference from `follower` to an event that is not placed.
pub(crate) fn missing_of(room: RoomNum, event_id: &str, follower: EventNum) -> Vec<u8> {
    Key(missing(room, event_id)).number(follower.0).0
}

/// The prefix of all events whose state waits for that of `event`.
pub(crate) fn waiting(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key::of_room(Tag::WAITING, room).number(event.0).0
}

/// The note that the state of `follower` waits for that of `event`.
pub(crate) fn waiting_of(room: RoomNum, event: EventNum, follower: EventNum) -> Vec<u8> {
    Key(waiting(room, event)).number(follower.0).0
}

/// The prefix of all events of a room whose arrival differs from their number.
pub(crate) fn arrivals(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::ARRIVAL, room).0
}

/// An event whose arrival differs from its number.
pub(crate) fn arrival(room: RoomNum, arrival: i64, event: EventNum) -> Vec<u8> {
    // Flipping the sign bit makes negative numbers sort before positive ones.
    let ordered = (arrival ^ i64::MIN).to_be_bytes();
    Key::of_room(Tag::ARRIVAL, room).bytes(&ordered).number(event.0).0
}

/// The arrival and the event in a key of [`arrival`] or [`later_redaction`].
pub(crate) fn arrival_of(key: &[u8]) -> Option<Arrival> {
    let ordered = i64::from_be_bytes(*key.get(5..)?.first_chunk::<8>()?);
    Some(Arrival { arrival: ordered ^ i64::MIN, event: EventNum(last_number(key)?) })
}

/// The prefix of all forward extremities of a room, the one that arrived last first.
pub(crate) fn extremities(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::EXTREMITY, room).0
}

/// A forward extremity, by its arrival.
pub(crate) fn extremity(room: RoomNum, arrival: i64, event: EventNum) -> Vec<u8> {
    let ordered = (!arrival ^ i64::MIN).to_be_bytes();
    Key::of_room(Tag::EXTREMITY, room).bytes(&ordered).number(event.0).0
}

/// The arrival and the event in a key of [`extremity`] or [`power`].
pub(crate) fn extremity_of(key: &[u8]) -> Option<Arrival> {
    let Arrival { arrival: descending, event } = arrival_of(key)?;
    Some(Arrival { arrival: !descending, event })
}

/// The prefix of all states of a room.
pub(crate) fn states(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::STATE, room).0
}

/// A state, by its number.
pub(crate) fn state(room: RoomNum, state: StateNum) -> Vec<u8> {
    Key::of_room(Tag::STATE, room).number(state.0).0
}

/// The prefix of all redactions of an event.
pub(crate) fn all_redactions(room: RoomNum, target_id: &str) -> Vec<u8> {
    Key::of_room(Tag::REDACTION, room).bytes(&hashed(target_id)).0
}

/// The prefix of all redactions of an event with the same judgement.
pub(crate) fn redactions(room: RoomNum, target_id: &str, judgement: u8) -> Vec<u8> {
    Key(all_redactions(room, target_id)).bytes(&[judgement]).0
}

/// A redaction of an event.
pub(crate) fn redaction(
    room: RoomNum,
    target_id: &str,
    judgement: u8,
    redaction: EventNum,
) -> Vec<u8> {
    Key(redactions(room, target_id, judgement)).number(redaction.0).0
}

/// The prefix of all redactions, in all rooms, before format 4.
pub(crate) fn redactions_3() -> Vec<u8> {
    Key::new(Tag::REDACTION_3).0
}

/// For the key of a redaction before format 4: its key of [`redaction`], and the key of the target's
/// number.
pub(crate) fn of_redaction_3(key: &[u8], judgement: u8) -> Option<(Vec<u8>, Vec<u8>)> {
    let (room, event) = (room_of(key)?, EventNum(last_number(key)?));
    let hash: &[u8; 16] = key.get(5..)?.first_chunk()?;
    let redaction = Key::of_room(Tag::REDACTION, room).bytes(hash).bytes(&[judgement]);
    Some((redaction.number(event.0).0, event_by_hash(room, *hash)))
}

/// The prefix of all power levels events that were accepted in a room, last arrival first.
pub(crate) fn powers(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::POWER, room).0
}

/// A power levels event.
pub(crate) fn power(room: RoomNum, arrival: i64, event: EventNum) -> Vec<u8> {
    let ordered = (!arrival ^ i64::MIN).to_be_bytes();
    Key::of_room(Tag::POWER, room).bytes(&ordered).number(event.0).0
}

/// The prefix of all redactions of a room, in their order of arrival.
pub(crate) fn later_redactions(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::LATER_REDACTION, room).0
}

/// A redaction, by its arrival.
pub(crate) fn later_redaction(room: RoomNum, arrival: i64, event: EventNum) -> Vec<u8> {
    let ordered = (arrival ^ i64::MIN).to_be_bytes();
    Key::of_room(Tag::LATER_REDACTION, room).bytes(&ordered).number(event.0).0
}

/// The prefix of all users who asked for erasure.
pub(crate) fn erased_users() -> Vec<u8> {
    Key::new(Tag::ERASED_USER).0
}

/// A user who asked for erasure.
pub(crate) fn erased_user(user_id: &str) -> Vec<u8> {
    Key::new(Tag::ERASED_USER).bytes(user_id.as_bytes()).0
}

/// The prefix of the cursors of all feeders.
pub(crate) fn cursors() -> Vec<u8> {
    Key::new(Tag::CURSOR).0
}

/// The cursor of a feeder.
pub(crate) fn cursor(feeder_name: &str) -> Vec<u8> {
    Key::new(Tag::CURSOR).bytes(feeder_name.as_bytes()).0
}

/// The prefix of all rooms that are not served to other servers.
pub(crate) fn rooms_not_served() -> Vec<u8> {
    Key::new(Tag::ROOM_NOT_SERVED).0
}

/// A room that is not served to other servers.
pub(crate) fn room_not_served(room_id: &str) -> Vec<u8> {
    Key::new(Tag::ROOM_NOT_SERVED).bytes(room_id.as_bytes()).0
}

/// The state that was received with an event.
pub(crate) fn given_state(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key::of_room(Tag::GIVEN_STATE, room).number(event.0).0
}

/// The prefix of all events for which work is left, in all rooms.
pub(crate) fn all_unsettled() -> Vec<u8> {
    Key::new(Tag::UNSETTLED).0
}

/// The prefix of all events for which work is left, in a room.
pub(crate) fn unsettled_in(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::UNSETTLED, room).0
}

/// The note that work is left for an event.
pub(crate) fn unsettled(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key(unsettled_in(room)).number(event.0).0
}

/// The prefix of the signing keys of all servers.
pub(crate) fn all_server_keys() -> Vec<u8> {
    Key::new(Tag::SERVER_KEYS).0
}

/// The signing keys of a server.
pub(crate) fn server_keys(server_name: &str) -> Vec<u8> {
    Key::new(Tag::SERVER_KEYS).bytes(server_name.as_bytes()).0
}

/// The prefix of all events whose given state names an event that is not held.
pub(crate) fn wanted(room: RoomNum, event_id: &str) -> Vec<u8> {
    Key::of_room(Tag::WANTED, room).bytes(&hashed(event_id)).0
}

/// The note that the given state of `follower` names an event that is not held.
pub(crate) fn wanted_by(room: RoomNum, event_id: &str, follower: EventNum) -> Vec<u8> {
    Key(wanted(room, event_id)).number(follower.0).0
}

/// The prefix of all deleted rooms whose records are not all removed.
pub(crate) fn deleted_rooms() -> Vec<u8> {
    Key::new(Tag::DELETED_ROOM).0
}

/// A deleted room whose records are not all removed.
pub(crate) fn deleted_room(room: RoomNum) -> Vec<u8> {
    Key::of_room(Tag::DELETED_ROOM, room).0
}

/// The prefixes of all records of a room, except the room's own.
pub(crate) fn all_of_room(room: RoomNum) -> impl Iterator<Item = Vec<u8>> {
    OF_ROOMS.into_iter().map(move |tag| Key::of_room(tag, room).0)
}

/// The number at the end of a key; `None` if the key is too short.
pub(crate) fn last_number(key: &[u8]) -> Option<u32> {
    key.last_chunk::<4>().map(|it| u32::from_be_bytes(*it))
}

/// The text after the tag; `None` if it is not UTF-8.
pub(crate) fn text(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(1..)?).ok()
}

/// The number of the room in a key; `None` if the key is too short.
pub(crate) fn room_of(key: &[u8]) -> Option<RoomNum> {
    key.get(1..)?.first_chunk::<4>().map(|it| RoomNum(u32::from_be_bytes(*it)))
}

#[cfg(test)]
mod tests;
