//! Where a record is in the database, and what its bytes are there.
//!
//! | keys | table | row |
//! |---|---|---|
//! | `01 room id`, `02 room` | `room` | one row a room; both records are read from it |
//! | other keys with a room | see [`Table::of_tag`] | the room, and what follows in the key |
//! | all other keys | `store_word` | the key |
//!
//! A room is identified by half of the SHA-256 of its id. The number of a room, which is in the keys
//! above the engine, is a number of this process, and never in the database. The checksum behind a
//! value covers the key, so it is made anew on the way in and on the way out.

use super::super::StoredValue;
use crate::store::{RoomNum, codec::sealed_again, keys};

/// Identifies a room in the database.
pub(super) type RoomUuid = [u8; 16];

/// A table with records of rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Numbers of events, by their ids.
    EventId,
    /// Pages of the event graph.
    Page,
    /// Bodies that are not in a block.
    Body,
    /// Blocks of bodies.
    Block,
    /// States.
    State,
    /// States that were received with events.
    Given,
    /// All other records of rooms.
    Note,
}

impl Table {
    /// All tables.
    pub(super) const ALL: [Self; 7] =
        [Self::EventId, Self::Page, Self::Body, Self::Block, Self::State, Self::Given, Self::Note];

    /// The table of the records whose keys begin with `tag` and a room.
    pub(super) fn of_tag(tag: u8) -> Self {
        match keys::part(&[tag]) {
            Some(keys::Part::Id) => Self::EventId,
            Some(keys::Part::Page) => Self::Page,
            Some(keys::Part::Body) if tag == keys::body_tag() => Self::Body,
            Some(keys::Part::Body) => Self::Block,
            Some(keys::Part::State) => Self::State,
            Some(keys::Part::GivenState) => Self::Given,
            Some(keys::Part::Redaction | keys::Part::Note) | None => Self::Note,
        }
    }

    /// The name of the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EventId => "event_id",
            Self::Page => "page",
            Self::Body => "body",
            Self::Block => "block",
            Self::State => "state",
            Self::Given => "given",
            Self::Note => "note",
        }
    }
}

/// A record of a room, or the beginning of the keys of several, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    pub(super) table: Table,
    /// In `note` the first byte is the tag; the other tables have records of one tag each.
    pub(super) key: Vec<u8>,
}

/// The row of a record of a room.
pub(super) fn row_key(tag: u8, rest: &[u8]) -> RowKey {
    let table = Table::of_tag(tag);
    let key = match table {
        Table::Note => [&[tag], rest].concat(),
        _ => rest.to_vec(),
    };
    RowKey { table, key }
}

/// The key of a record above the engine. `tag` is what its table does not say.
pub(super) fn key_of_row(tag: u8, room: RoomNum, row: &RowKey) -> Vec<u8> {
    let rest = match row.table {
        Table::Note => row.key.get(1..).unwrap_or_default(),
        _ => &row.key,
    };
    [&[tag], room.0.to_be_bytes().as_slice(), rest].concat()
}

/// A value as the database keeps it: its checksum covers the tag, the room's id in the database, and
/// the rest of the key. A value whose checksum is wrong gets a wrong one.
pub(super) fn value_to_row(key: &[u8], room: RoomUuid, value: &[u8]) -> Vec<u8> {
    sealed_again(key, &key_in_database(key, room), value)
}

/// A value as it is above the engine: its checksum covers the key with the room's number. A value
/// whose checksum is wrong in the database gets a wrong one.
pub(super) fn value_of_row(key: &[u8], room: RoomUuid, value: &[u8]) -> StoredValue {
    sealed_again(&key_in_database(key, room), key, value).into()
}

/// The key of a record of a room with the room's id in the database in the place of its number.
fn key_in_database(key: &[u8], room: RoomUuid) -> Vec<u8> {
    let (tag, rest) = (key.get(..1).unwrap_or_default(), key.get(5..).unwrap_or_default());
    [tag, &room, rest].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{
        EventNum,
        codec::{Malformed, add_checksum, strip_checksum},
    };

    #[test]
    fn every_kind_of_record_has_one_table_and_comes_back_with_its_key() {
        let room = RoomNum(7);
        let is_of_rooms = |tag: &u8| matches!(keys::scope(&[*tag]), keys::Scope::AllRooms { .. });
        for tag in keys::tags().filter(is_of_rooms) {
            let row = row_key(tag, b"rest");
            assert_eq!(
                key_of_row(tag, room, &row),
                [&[tag, 0, 0, 0, 7], b"rest".as_slice()].concat()
            );
        }
        assert_eq!(row_key(5, &[0, 0, 0, 1]).table, Table::Body);
        assert_eq!(row_key(0x12, &[0, 0, 0, 1]).table, Table::Block);
        assert_eq!(row_key(0x10, &[]), RowKey { table: Table::Note, key: vec![0x10] });
    }

    proptest! {
        #[test]
        fn a_value_comes_back_and_a_wrong_one_stays_wrong(
            content: Vec<u8>, number: u32, other: u32, flip in any::<Option<u8>>(),
        ) {
            let uuid = [9; 16];
            let key = keys::body(RoomNum(number), EventNum(3));
            let mut value = add_checksum(&key, content.clone());
            if let Some(bit) = flip {
                let at = usize::from(bit) % value.len();
                value[at] ^= 1 << (bit % 8);
            }
            let row = value_to_row(&key, uuid, &value);
            let there = keys::body(RoomNum(other), EventNum(3));
            let read = value_of_row(&there, uuid, &row);
            let expected = if flip.is_some() { Err(Malformed) } else { Ok(content.as_slice()) };
            prop_assert_eq!(strip_checksum(&there, &read), expected);
        }
    }
}
