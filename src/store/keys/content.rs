//! Keys of records about content that is removed from the disk, and about bans that redact.

use super::{EventNum, Key, RoomNum, Tag};

/// The last byte in the key of content that is to be removed.
const DUE: u8 = 0;
/// The last byte in the key of what stays of removed content.
const REMAINS: u8 = 1;
/// The first byte behind the tag in the key of a ban.
const BAN: u8 = 0;
/// The first byte behind the tag in the key of a search for events of a banned user.
const SEARCH: u8 = 1;

/// How far the store was searched for events that were redacted before format 5.
pub(crate) fn redacted_search() -> Vec<u8> {
    Key::new(Tag::FORMAT).bytes(b"cont").0
}

/// The prefix of all records about content, in all rooms.
pub(crate) fn all_content() -> Vec<u8> {
    Key::new(Tag::CONTENT).0
}

/// An event whose content is to be removed.
pub(crate) fn content_due(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key::of_room(Tag::CONTENT, room).number(event.0).bytes(&[DUE]).0
}

/// What stays of an event whose content was removed.
pub(crate) fn remains(room: RoomNum, event: EventNum) -> Vec<u8> {
    Key::of_room(Tag::CONTENT, room).number(event.0).bytes(&[REMAINS]).0
}

/// The event in a key of [`content_due`] or [`remains`]; `None` if the key is malformed.
pub(crate) fn of_content(key: &[u8]) -> Option<EventNum> {
    let number = key.get(5..9)?.try_into().ok()?;
    Some(EventNum(u32::from_be_bytes(number)))
}

/// Whether a key is one of [`content_due`].
pub(crate) fn is_content_due(key: &[u8]) -> bool {
    key.last() == Some(&DUE)
}

/// The prefix of all bans that redact.
pub(crate) fn all_ban_redactions() -> Vec<u8> {
    Key::new(Tag::BAN_REDACTION).bytes(&[BAN]).0
}

/// A ban that redacts. The ids have at most 255 bytes each.
pub(crate) fn ban_redaction(room_id: &str, user_id: &str) -> Vec<u8> {
    of_banned(BAN, room_id, user_id)
}

/// The prefix of all searches for events of banned users.
pub(crate) fn ban_searches() -> Vec<u8> {
    Key::new(Tag::BAN_REDACTION).bytes(&[SEARCH]).0
}

/// How far the events of a banned user were searched.
pub(crate) fn ban_search(room_id: &str, user_id: &str) -> Vec<u8> {
    of_banned(SEARCH, room_id, user_id)
}

fn of_banned(kind: u8, room_id: &str, user_id: &str) -> Vec<u8> {
    let length = u8::try_from(room_id.len()).expect("a room id has at most 255 bytes");
    let key = Key::new(Tag::BAN_REDACTION).bytes(&[kind, length]);
    key.bytes(room_id.as_bytes()).bytes(user_id.as_bytes()).0
}

/// The room id and the user id in a key of [`ban_redaction`] or [`ban_search`]; `None` if the key is
/// malformed.
pub(crate) fn banned_user(key: &[u8]) -> Option<(&str, &str)> {
    let (length, ids) = key.get(2..)?.split_first()?;
    let (room_id, user_id) = ids.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(room_id).ok()?, std::str::from_utf8(user_id).ok()?))
}
