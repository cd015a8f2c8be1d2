//! Counts removals, so that a reader can tell a removed record from a lost one. Reading takes no
//! lock: a reader that does not find a record asks here whether records were removed meanwhile.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{HeldLease, Leased, Store, StoreError};
use crate::sync::lock;

/// The removals from the rooms that share a count.
#[derive(Default)]
pub(super) struct Removals {
    /// Removals of records from rooms that stay: purges.
    pub(super) of_records: RemovalCount,
    /// Removals of whole rooms.
    pub(super) of_rooms: RemovalCount,
}

/// Counts operations, when they begin and when they have ended.
#[derive(Default)]
pub(super) struct RemovalCount {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl RemovalCount {
    /// Runs and counts an operation.
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

/// A moment: the counts of removals from a room until then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    of_records: u64,
    of_rooms: u64,
}

/// What may have been removed from a room since a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Nothing: a record that is not found did not exist at that moment either.
    Nothing,
    /// Some of its records, by a purge.
    Records,
    /// The whole room, with all of its records.
    Room,
}

/// The longest wait for a purge of the same room by another process: longer than the lease of a process
/// that has ended.
const LONGEST_WAIT: Duration = Duration::from_secs(90);
/// The time between two looks whether such a purge has ended.
const WAIT: Duration = Duration::from_millis(100);

/// While it exists, no other purge of the room begins.
pub struct PurgeAlone<'s> {
    store: &'s Store,
    _running: MutexGuard<'s, ()>,
    /// `None` in a store of one process.
    lease: Mutex<Option<HeldLease>>,
}

impl PurgeAlone<'_> {
    /// Makes the purge go on alone for a while. To be called before each of its decisions.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another process has begun to purge the room, because this one was
    /// silent for too long.
    pub fn prolong(&self, room_id: &str) -> Result<(), StoreError> {
        let is_alone = match &mut *lock(&self.lease) {
            Some(lease) => self.store.prolong(lease)?,
            None => true,
        };
        if is_alone { Ok(()) } else { Err(StoreError::Conflict { room_id: room_id.to_owned() }) }
    }
}

impl Drop for PurgeAlone<'_> {
    fn drop(&mut self) {
        if let Some(lease) = &*lock(&self.lease) {
            self.store.release(lease);
        }
    }
}

/// Counts of removals; rooms share them by a hash of their ids.
pub(super) const REMOVAL_COUNTS: usize = 256;

impl Store {
    /// Waits until no other purge is running, and keeps others from beginning while the guard is
    /// held. Of purges in other processes, it waits for those of the same room only.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another process purges the room for a long time.
    pub fn purge_alone(&self, room_id: &str) -> Result<PurgeAlone<'_>, StoreError> {
        let running = lock(&self.purging);
        if !self.is_shared() {
            return Ok(PurgeAlone { store: self, _running: running, lease: Mutex::new(None) });
        }
        let begun = Instant::now();
        loop {
            if let Some(lease) = self.try_lease(Leased::Purge(room_id))? {
                let lease = Mutex::new(Some(lease));
                return Ok(PurgeAlone { store: self, _running: running, lease });
            }
            if begun.elapsed() >= LONGEST_WAIT {
                return Err(StoreError::Conflict { room_id: room_id.to_owned() });
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "no event of this process ends the wait"
            )]
            thread::sleep(WAIT);
        }
    }

    /// The counts of removals that a room shares with others.
    pub(super) fn removals(&self, room_id: &str) -> &Removals {
        let hash = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(byte.into());
        let index = room_id.bytes().fold(0, hash) % REMOVAL_COUNTS;
        self.removals.get(index).expect("there is a count for each remainder")
    }

    /// The moment now, for a room that is about to be read.
    pub fn moment(&self, room_id: &str) -> Moment {
        let removals = self.removals(room_id);
        // A removal that has begun and not ended may still remove records after this.
        Moment { of_records: removals.of_records.ended(), of_rooms: removals.of_rooms.ended() }
    }

    /// What may have been removed from a room since a moment. Rooms share counts, so the removal
    /// may be one from another room.
    pub fn removed_since(&self, room_id: &str, moment: Moment) -> Removed {
        let removals = self.removals(room_id);
        if removals.of_rooms.begun() != moment.of_rooms {
            Removed::Room
        } else if removals.of_records.begun() != moment.of_records {
            Removed::Records
        } else {
            Removed::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn a_removal_that_overlaps_with_a_moment_counts_as_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        let (room, removals) = ("!a:one.example", store.removals("!a:one.example"));
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
