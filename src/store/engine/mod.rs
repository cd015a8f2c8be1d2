//! The seam below the store: an ordered map from bytes to bytes, with atomic and conditional
//! commits. Everything above it is one implementation for every engine.
//!
//! ```text
//! Store, Edit, View, caches, keys, records      domain words
//! ──────────────────────────────────────────────────────────────
//! Engine: read many · scan · last key · commit · flush · vitals
//! ──────────────────────────────────────────────────────────────
//! Local: a sled tree in a directory     Fjall: likewise     Postgres: a database that processes share
//! TestEngine: a map, for tests
//! ```
//!
//! An engine is one variant of [`Engine`], not a trait object: reads are the most frequent calls
//! of the program, and there are few engines. Only [`sled`] and [`value`] name the sled
//! crate, only [`fjall`] names the fjall crate, only [`postgres`] names tokio-postgres.
//! `docs/decisions/0001-sled.md` says how a second engine is added.

mod counts;
mod durable;
mod fjall;
#[cfg(test)]
mod flights;
mod group_commit;
mod helper_files;
mod local;
mod log_copy;
mod mark;
mod opening;
mod panics;
mod postgres;
mod replication;
#[cfg(test)]
mod shared_map;
mod sled;
#[cfg(test)]
mod test_engine;
mod value;
mod volume;
mod watchdog;

use std::collections::BTreeMap;

pub use self::{
    counts::EngineCounts,
    durable::Durability,
    panics::caught,
    postgres::{Preparation, prepare, until},
    replication::Replication,
    value::StoredValue,
};
pub(super) use self::{
    fjall::Fjall,
    local::Local,
    opening::{State, open},
    postgres::Postgres,
};
#[cfg(test)]
pub(super) use self::{group_commit::GroupCommit, test_engine::TestEngine};
use super::{RoomNum, StoreError, keys};

/// Keys and their values, in the order of the keys.
pub(super) type Records = Vec<(Vec<u8>, StoredValue)>;

/// The changes of one commit, by key; `None` removes the record.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<StoredValue>>;

/// A record as a decision read it: the condition of its commit. It is the record of a room, or the
/// record that maps a room id to a number.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: Vec<u8>,
    /// `None` if there was no such record.
    pub(super) value: Option<StoredValue>,
    /// In a store that several processes share: the stamp that the room had. Each commit gives the
    /// room another stamp, so one that was made meanwhile is noticed even if it left the same value.
    pub(super) stamp: Option<i64>,
}

/// What a commit does to records that other processes may have in their caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Bodies, ids and states that were stored stay as they are; bodies may move into a block.
    Adds,
    /// Bodies, ids or states that were stored are replaced or removed.
    Replaces,
}

/// A set of the whole store that every process keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Users who asked for erasure.
    ErasedUsers,
    /// Rooms that are not served to other servers.
    RoomsNotServed,
    /// Bans that redact.
    Bans,
    /// The lease of a repair.
    Repair,
}

impl Set {
    pub(super) const ALL: [Self; 4] =
        [Self::ErasedUsers, Self::RoomsNotServed, Self::Bans, Self::Repair];

    /// The first byte of the keys of its records.
    pub(super) fn tag(self) -> u8 {
        let prefix = match self {
            Self::ErasedUsers => keys::erased_users(),
            Self::RoomsNotServed => keys::rooms_not_served(),
            Self::Bans => keys::all_ban_redactions(),
            Self::Repair => keys::repair(),
        };
        prefix.first().copied().expect("a prefix begins with a tag")
    }
}

/// What is read ahead: records that a use case is about to read.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Keys of records.
    pub(super) keys: Vec<Vec<u8>>,
    /// Prefixes of which all records are about to be read. Few records are expected.
    pub(super) prefixes: Vec<Vec<u8>>,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Commit {
    /// All changes are applied.
    Done,
    /// The record that the commit depends on has changed. Nothing is applied.
    Conflict,
}

/// The engine of a store.
pub(super) enum Engine {
    /// In a directory of this machine, kept by sled.
    Local(Local),
    /// In a directory of this machine, kept by fjall.
    Fjall(Fjall),
    /// In a database that several processes may share.
    Postgres(Postgres),
    /// In memory, for tests.
    #[cfg(test)]
    Test(TestEngine),
}

impl Engine {
    /// The value of a key; `None` if there is no such record.
    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        match self {
            Self::Local(it) => it.read(key),
            Self::Fjall(it) => it.read(key),
            Self::Postgres(it) => it.read(key),
            #[cfg(test)]
            Self::Test(it) => it.read(key),
        }
    }

    /// The values of several keys, in the order of `keys`. An engine behind a network reads them in
    /// one round trip, so callers use this wherever they know several keys at once.
    pub(super) fn read_many(
        &self,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<StoredValue>>, StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => keys.iter().map(|key| self.read(key)).collect(),
            Self::Postgres(it) => it.read_many(keys),
            #[cfg(test)]
            Self::Test(it) => it.read_many(keys),
        }
    }

    /// Reads the record that a decision depends on. It is never taken from what an earlier call has
    /// read.
    pub(super) fn see(&self, key: Vec<u8>) -> Result<Seen, StoreError> {
        if let Self::Postgres(it) = self {
            return it.see(key);
        }
        #[cfg(test)]
        if let Self::Test(it) = self {
            return it.see(key);
        }
        let value = self.read(&key)?;
        Ok(Seen { key, value, stamp: None })
    }

    /// Whether [`read_ahead`](Self::read_ahead) does anything. Callers ask before they build keys.
    pub(super) fn reads_ahead(&self) -> bool {
        match self {
            Self::Local(_) | Self::Fjall(_) => false,
            Self::Postgres(_) => true,
            #[cfg(test)]
            Self::Test(it) => it.reads_ahead(),
        }
    }

    /// Whether reading a record, or finding that there is none, takes no round trip.
    pub(super) fn is_in_memory(&self, key: &[u8]) -> bool {
        match self {
            Self::Local(_) | Self::Fjall(_) => true,
            Self::Postgres(it) => it.is_in_memory(key),
            #[cfg(test)]
            Self::Test(it) => it.is_in_memory(key),
        }
    }

    /// Reads records in one round trip, so that later calls find them in memory; those that are there
    /// already are not read again. What is not read ahead is read when it is asked for. Does nothing
    /// in an engine whose records are on this machine.
    pub(super) fn read_ahead(&self, ahead: &Ahead) -> Result<(), StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(()),
            Self::Postgres(it) => it.read_ahead(ahead),
            #[cfg(test)]
            Self::Test(it) => {
                it.read_ahead(ahead);
                Ok(())
            }
        }
    }

    /// A number that stands for a room until the room is deleted: the same in every process, and
    /// another if the room is made again. `number` is the number of the room in this process.
    pub(super) fn room_mark(&self, number: RoomNum) -> u64 {
        match self {
            Self::Local(_) | Self::Fjall(_) => number.0.into(),
            Self::Postgres(it) => it.room_mark(number),
            #[cfg(test)]
            Self::Test(it) => it.room_mark(number.0),
        }
    }

    /// A number for a room that is about to be made, if the engine numbers rooms itself.
    pub(super) fn number_for_new(&self, room_id: &str) -> Result<Option<RoomNum>, StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(None),
            Self::Postgres(it) => it.number_for_new(room_id).map(Some),
            #[cfg(test)]
            Self::Test(_) => Ok(None),
        }
    }

    /// The number that the room of a number has now; `None` if the room was made again. Numbers of rooms
    /// change only in a store that processes share.
    pub(super) fn number_now(&self, number: RoomNum) -> Result<Option<RoomNum>, StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(Some(number)),
            Self::Postgres(it) => it.number_now(number),
            #[cfg(test)]
            Self::Test(_) => Ok(Some(number)),
        }
    }

    /// The number of a deleted room, if the room that is made again under its id would have its records
    /// at the same place.
    pub(super) fn deleted_in_place(&self, room_id: &str) -> Result<Option<RoomNum>, StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(None),
            Self::Postgres(it) => it.deleted_number(room_id),
            #[cfg(test)]
            Self::Test(_) => Ok(None),
        }
    }

    /// Whether other processes may change the store while this one has it open.
    pub(super) fn is_shared(&self) -> bool {
        match self {
            Self::Local(_) | Self::Fjall(_) => false,
            Self::Postgres(_) => true,
            #[cfg(test)]
            Self::Test(it) => it.is_shared(),
        }
    }

    /// Finds out which sets of the whole store other processes have changed. Reading the number of a
    /// room does that too.
    pub(super) fn learn_sets(&self) -> Result<(), StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(()),
            Self::Postgres(it) => it.read_words(),
            #[cfg(test)]
            Self::Test(it) => {
                it.learn_sets();
                Ok(())
            }
        }
    }

    /// How often another process was found to have changed a set of the whole store.
    pub(super) fn foreign_changes(&self, set: Set) -> u64 {
        match self {
            Self::Local(_) | Self::Fjall(_) => 0,
            Self::Postgres(it) => it.foreign_changes(set),
            #[cfg(test)]
            Self::Test(it) => it.foreign_changes(set),
        }
    }

    /// The records whose keys begin with `prefix` and are greater than `after`, in the order of
    /// their keys, at most `limit`.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        match self {
            Self::Local(it) => it.scan(prefix, after, limit),
            Self::Fjall(it) => it.scan(prefix, after, limit),
            Self::Postgres(it) => it.scan(prefix, after, limit),
            #[cfg(test)]
            Self::Test(it) => it.scan(prefix, after, limit),
        }
    }

    /// The greatest key that begins with `prefix`; `None` if there is none, or if the engine has no
    /// order of all keys.
    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Local(it) => it.last_key(prefix),
            Self::Fjall(it) => it.last_key(prefix),
            Self::Postgres(_) => Ok(None),
            #[cfg(test)]
            Self::Test(it) => it.last_key(prefix),
        }
    }

    /// Applies all changes as one atomic batch, if the record that they depend on is still as it
    /// was read. They are on disk only after [`flush`](Self::flush).
    pub(super) fn commit(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
        effect: Effect,
    ) -> Result<Commit, StoreError> {
        match self {
            Self::Local(it) => it.commit(seen, changes),
            Self::Fjall(it) => it.commit(seen, changes),
            Self::Postgres(it) => it.commit(seen, changes, effect),
            #[cfg(test)]
            Self::Test(it) => it.commit(seen, changes, effect),
        }
    }

    /// Applies all changes as one atomic batch, whatever is stored.
    pub(super) fn put(&self, changes: Changes) -> Result<(), StoreError> {
        match self.commit(None, changes, Effect::Replaces)? {
            Commit::Done => Ok(()),
            Commit::Conflict => Err(StoreError::Bug("a commit without a condition conflicted")),
        }
    }

    /// Returns when everything that was committed before the call is on disk.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        match self {
            Self::Local(it) => it.flush(),
            Self::Fjall(it) => it.flush(),
            // A commit is on disk when it returns.
            Self::Postgres(_) => Ok(()),
            #[cfg(test)]
            Self::Test(_) => Ok(()),
        }
    }

    /// To be called after many records were written at once: a database then counts its rows, so that it
    /// reads them by their keys.
    pub(super) fn after_many_writes(&self) -> Result<(), StoreError> {
        match self {
            Self::Local(_) | Self::Fjall(_) => Ok(()),
            Self::Postgres(it) => it.analyze(),
            #[cfg(test)]
            Self::Test(_) => Ok(()),
        }
    }

    /// Bytes that the records take on disk.
    pub(super) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        match self {
            Self::Local(it) => it.bytes_on_disk(),
            Self::Fjall(it) => it.bytes_on_disk(),
            Self::Postgres(it) => it.bytes_on_disk(),
            #[cfg(test)]
            Self::Test(_) => Ok(0),
        }
    }

    /// Bytes that are free on the volume.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        match self {
            Self::Local(it) => it.free_bytes(),
            Self::Fjall(it) => it.free_bytes(),
            // The volume is of the server. When it is full, the server says so.
            Self::Postgres(_) => Ok(u64::MAX),
            #[cfg(test)]
            Self::Test(_) => Ok(u64::MAX),
        }
    }

    /// Whether a write has failed. Then nothing can be relied on before the store is opened again.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Self::Local(it) => it.has_failed(),
            Self::Fjall(it) => it.has_failed(),
            // A commit that failed is not applied, and the next one may succeed.
            Self::Postgres(_) => false,
            #[cfg(test)]
            Self::Test(_) => false,
        }
    }

    /// Makes the engine write no more, and returns the failure as a failure to open the store.
    pub(super) fn give_up(&self, failure: StoreError) -> StoreError {
        match self {
            Self::Local(it) => it.give_up(failure),
            Self::Fjall(it) => {
                it.give_up();
                failure
            }
            Self::Postgres(_) => failure,
            #[cfg(test)]
            Self::Test(_) => failure,
        }
    }

    /// The servers that copy the database; `None` if the records are on this machine.
    pub(super) fn replication(&self) -> Result<Option<Replication>, StoreError> {
        match self {
            Self::Postgres(it) => it.replication().map(Some),
            Self::Local(_) | Self::Fjall(_) => Ok(None),
            #[cfg(test)]
            Self::Test(_) => Ok(None),
        }
    }

    /// How writes are made durable.
    pub(super) fn durability(&self) -> Durability {
        match self {
            Self::Local(it) => it.durability(),
            Self::Fjall(_) => Durability::Fjall,
            Self::Postgres(_) => Durability::Server,
            #[cfg(test)]
            Self::Test(_) => Durability::OwnSync,
        }
    }
}

#[cfg(test)]
mod tests;
