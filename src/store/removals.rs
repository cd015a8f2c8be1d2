//! What is removed from a room while somebody reads it. Reading takes no lock: whoever finds that
//! a record is not there asks here whether it was removed meanwhile, or is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// The removals from rooms that share a count.
#[derive(Default)]
pub(super) struct Removals {
    /// From rooms that stay: by purges.
    pub(super) of_records: Count,
    /// Of whole rooms.
    pub(super) of_rooms: Count,
}

/// Counts what is done, when it begins and when it has ended.
#[derive(Default)]
pub(super) struct Count {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Count {
    /// Does something, and counts it.
    pub(super) fn during<T>(&self, remove: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let done = remove();
        self.ended.fetch_add(1, Ordering::SeqCst);
        done
    }

    fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }
}

/// A moment, told by what had been removed from a room until then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    of_records: u64,
    of_rooms: u64,
}

/// What was removed from a room since a moment, or may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Nothing: what is not there was not there at that moment either.
    Nothing,
    /// Some of its records, by a purge.
    Records,
    /// The room as a whole.
    Room,
}

impl Store {
    /// The moment now, for a room that is about to be read.
    pub fn moment(&self, room_id: &str) -> Moment {
        let removals = self.removals(room_id);
        // What has begun and not ended may remove something only after this.
        let ended = |count: Option<&Count>| count.map_or(0, Count::ended);
        Moment {
            of_records: ended(removals.map(|it| &it.of_records)),
            of_rooms: ended(removals.map(|it| &it.of_rooms)),
        }
    }

    /// What may have been removed from a room since a moment. Rooms share counts: it may
    /// name what was removed from another one.
    pub fn removed_since(&self, room_id: &str, moment: Moment) -> Removed {
        match self.removals(room_id) {
            Some(it) if it.of_rooms.begun() != moment.of_rooms => Removed::Room,
            Some(it) if it.of_records.begun() != moment.of_records => Removed::Records,
            Some(_) | None => Removed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn what_has_begun_before_a_moment_and_ended_after_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        let (room, removals) = ("!a:one.example", store.removals("!a:one.example").unwrap());
        let before = store.moment(room);
        assert_eq!(store.removed_since(room, before), Removed::Nothing);
        let within = removals.of_records.during(|| {
            assert_eq!(store.removed_since(room, before), Removed::Records);
            store.moment(room)
        });
        assert_eq!(store.removed_since(room, within), Removed::Records);
        assert_eq!(store.removed_since(room, store.moment(room)), Removed::Nothing);
        let within = removals.of_rooms.during(|| store.moment(room));
        assert_eq!(store.removed_since(room, within), Removed::Room);
        assert_eq!(store.removed_since(room, before), Removed::Room);
    }
}
