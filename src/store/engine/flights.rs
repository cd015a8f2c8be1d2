//! Counts the round trips that an engine behind a network needs, for tests: reading the number of a
//! room is always one, which brings the record of the room and the note that it is being derived
//! again. Other records, absent ones and whole prefixes cost one when they are read first, however
//! many are read at a time; after that they are in memory until [`Flights::forget`]. A commit is one.

use std::collections::BTreeSet;

use super::{Ahead, StoredValue};
use crate::store::{RoomNum, keys};

#[derive(Default)]
pub(super) struct Flights {
    pub(super) count: u64,
    keys: BTreeSet<Vec<u8>>,
    prefixes: BTreeSet<Vec<u8>>,
}

impl Flights {
    /// Drops what is in memory, as when another process has changed everything.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
        self.prefixes.clear();
    }

    /// The number of a room was read: the first round trip of a question or decision.
    pub(super) fn room_read(&mut self, key: &[u8], value: Option<&StoredValue>) {
        self.count += 1;
        self.keys.insert(key.to_vec());
        // Behind the number is a checksum.
        if let Some(number) = value
            .and_then(|it| it.first_chunk::<4>())
            .filter(|_| value.is_some_and(|it| it.len() > 4))
        {
            let room = RoomNum(u32::from_be_bytes(*number));
            self.keys.insert(keys::room(room));
            self.keys.insert(keys::deriving(room));
        }
    }

    /// Keys and prefixes are read at the same time.
    pub(super) fn read(&mut self, ahead: &Ahead) {
        let is_new = ahead.keys.iter().any(|it| !self.has(it))
            || ahead.prefixes.iter().any(|it| !self.has_prefix(it));
        if is_new {
            self.count += 1;
            self.keys.extend(ahead.keys.iter().cloned());
            self.prefixes.extend(ahead.prefixes.iter().cloned());
        }
    }

    /// Whether a record is in memory, or that there is none.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.has_prefix(key)
    }

    fn has_prefix(&self, prefix: &[u8]) -> bool {
        (0..=prefix.len()).any(|it| prefix.get(..it).is_some_and(|it| self.prefixes.contains(it)))
    }
}
