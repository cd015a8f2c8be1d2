//! Rooms that are not served to other servers, and why. What is decided about a room is
//! independent of whether the room is held. All of these rooms are kept in memory, since every
//! question of another server asks for its room.

use std::{collections::BTreeMap, fmt, ops::Bound};

use super::{
    Store, StoreError, View,
    codec::{Malformed, add_checksum, strip_checksum},
    engine::Changes,
    keys,
};
use crate::sync;

/// Why a room is not served to other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotServedReason {
    /// A feeder copies the room and is not done.
    Importing,
    /// The homeserver does not know the full state of the room.
    PartialState,
    /// An administrator of the homeserver has blocked the room.
    Blocked,
    /// The copy of the room differs from that of the homeserver.
    Differs,
    /// What follows from a changed verdict is being derived again. Never stored here.
    Deriving,
}

impl NotServedReason {
    /// The reasons that are stored.
    pub const STORED: [Self; 4] =
        [Self::Importing, Self::PartialState, Self::Blocked, Self::Differs];

    /// The number of the reason on disk.
    const fn number(self) -> u8 {
        match self {
            Self::Importing => 1,
            Self::PartialState => 2,
            Self::Blocked => 3,
            Self::Differs => 4,
            Self::Deriving => 5,
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::STORED.into_iter().find(|it| bytes == [it.number()]).ok_or(Malformed)
    }

    /// The stored reason with a label; `None` if none has it.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::STORED.into_iter().find(|it| it.label() == label)
    }

    /// The label of this reason in metrics and backups, and, in upper case, its name in errors.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Importing => "importing",
            Self::PartialState => "partial_state",
            Self::Blocked => "blocked",
            Self::Differs => "differs",
            Self::Deriving => "deriving",
        }
    }
}

impl fmt::Display for NotServedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Importing => "a feeder copies it and is not done",
            Self::PartialState => "the homeserver does not know its full state yet",
            Self::Blocked => "an administrator of the homeserver has blocked it",
            Self::Differs => "our copy differs from that of the homeserver",
            Self::Deriving => "what follows from a changed verdict or a ban is derived again",
        })
    }
}

/// A room that is not served to other servers. It need not be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomNotServed {
    /// The id of the room.
    pub room_id: String,
    /// Why it is not served.
    pub reason: NotServedReason,
}

impl Store {
    /// Why a room is not served to other servers, as a feeder decided; `None` if it is served. The
    /// room need not be held.
    pub fn not_served_reason(&self, room_id: &str) -> Option<NotServedReason> {
        sync::read(&self.rooms_not_served).get(room_id).copied()
    }

    /// The rooms that are not served, by their ids, those with ids greater than `after`, at most
    /// `limit`.
    pub fn rooms_not_served(&self, after: &str, limit: usize) -> Vec<RoomNotServed> {
        let rooms = sync::read(&self.rooms_not_served);
        let range = (Bound::Excluded(after), Bound::Unbounded);
        let rooms = rooms.range::<str, _>(range).take(limit);
        rooms
            .map(|(room_id, reason)| RoomNotServed { room_id: room_id.clone(), reason: *reason })
            .collect()
    }

    /// The number of rooms that are not served, for each of [`NotServedReason::STORED`].
    pub fn count_rooms_not_served(&self) -> [u64; 4] {
        let rooms = sync::read(&self.rooms_not_served);
        NotServedReason::STORED
            .map(|reason| crate::num::u64(rooms.values().filter(|it| **it == reason).count()))
    }

    /// Decides that rooms are not served to other servers, for a reason of
    /// [`NotServedReason::STORED`]; with `None`, that they are served. One atomic batch, on disk
    /// when this returns.
    pub fn set_rooms_served(
        &self,
        room_ids: &[String],
        reason: Option<NotServedReason>,
    ) -> Result<(), StoreError> {
        self.learn_sets()?;
        let mut rooms = sync::write(&self.rooms_not_served);
        let mut changes = Changes::new();
        for room_id in room_ids.iter().filter(|it| rooms.get(*it).copied() != reason) {
            let key = keys::room_not_served(room_id);
            let value = reason.map(|it| add_checksum(&key, vec![it.number()]).into());
            changes.insert(key, value);
        }
        if !changes.is_empty() {
            self.engine.put(changes)?;
            for room_id in room_ids {
                match reason {
                    Some(reason) => drop(rooms.insert(room_id.clone(), reason)),
                    None => drop(rooms.remove(room_id)),
                }
            }
        }
        drop(rooms);
        self.flush()
    }

    /// Reads all rooms that are not served into memory. A damaged record keeps its room from being
    /// served.
    pub(super) fn load_rooms_not_served(&self) -> Result<(), StoreError> {
        // A change by this process waits, so that what it adds is not replaced.
        let mut held = sync::write(&self.rooms_not_served);
        let mut rooms = BTreeMap::new();
        for (key, value) in self.scan(&keys::rooms_not_served(), None, usize::MAX)? {
            let Some(room_id) = keys::text(&key) else { continue };
            let reason = strip_checksum(&key, &value).and_then(NotServedReason::decode);
            rooms.insert(room_id.to_owned(), reason.unwrap_or(NotServedReason::Differs));
        }
        *held = rooms;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Cursor, Options, OrphanReason};

    fn ids(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn what_is_decided_about_rooms_survives_a_restart_and_a_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let store = Store::open(&options).unwrap();
        store.edit("!a:b", Some("10")).unwrap().unwrap().commit().unwrap();
        store.set_rooms_served(&ids(&["!a:b", "!b:b"]), Some(NotServedReason::Importing)).unwrap();
        store.set_rooms_served(&ids(&["!c:b"]), Some(NotServedReason::Blocked)).unwrap();
        store.set_rooms_served(&ids(&["!b:b", "!d:b"]), None).unwrap();
        store.delete_room("!a:b").unwrap().unwrap();
        store.forget_deleted_room("!a:b").unwrap();
        let check = |store: &Store| {
            assert_eq!(store.not_served_reason("!a:b"), Some(NotServedReason::Importing));
            assert_eq!(store.not_served_reason("!b:b"), None);
            assert_eq!(store.count_rooms_not_served(), [1, 0, 1, 0]);
            let listed = store.rooms_not_served("!a:b", 9);
            let expected = "!c:b".to_owned();
            assert_eq!(
                listed,
                [RoomNotServed { room_id: expected, reason: NotServedReason::Blocked }]
            );
        };
        check(&store);
        drop(store);
        check(&Store::open(&options).unwrap());
    }

    #[test]
    fn a_room_whose_record_is_damaged_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let store = Store::open(&options).unwrap();
        let key = keys::room_not_served("!a:b");
        for value in [vec![1], add_checksum(&key, vec![99])] {
            store.engine.put([(key.clone(), Some(value.into()))].into()).unwrap();
            store.load_rooms_not_served().unwrap();
            assert_eq!(store.not_served_reason("!a:b"), Some(NotServedReason::Differs));
            let (orphans, _) = store.orphans(&Cursor::default(), 99).unwrap();
            let reasons: Vec<OrphanReason> = orphans.iter().map(|it| it.reason).collect();
            assert_eq!(reasons, [OrphanReason::Damaged(None)]);
        }
    }
}
