//! Memory: the only room that knows sled.
//!
//! # The keyspace
//!
//! One tree. A key is a tag byte and its parts, big-endian and of fixed width, so that what is
//! read together lies together. Rooms and events have numbers, given in order of coming; an id is
//! looked up once, inside its room: an id of another room is simply not there.
//!
//! ```text
//! 00                               format        version of this drawing
//! 00 "mark"                        how often the store was flushed
//! 01 room id                       number of the room; empty: deleted, and stays away
//! 02 room                          Room          version, counters, extremities, current state
//! 03 room hash(event id)           number of the event; empty: purged, and stays away
//! 04 room page                     Page          32 events: depth, arrival, flags, state, edges
//! 05 room event                    Body          event id, the PDU as it came (compressed); of
//!                                                events whose page is not full, and of long ones
//! 06 room hash(event id) follower  an event that is referenced but not placed, and by whom
//! 07 room event follower           an event whose state waits for that of another
//! 08 room arrival event            only where arrival is not the event's number
//! 09 room state                    StateFacts, and the nodes this state has of its own
//! 0a                               redactions before format 4
//! 0b user id                       asked for erasure
//! 0c room event                    the state that came with the event
//! 0d room event                    its state may be known now: work still to be done
//! 0e server name                   FetchedKeys   the server's signing keys, and when they were fetched
//! 0f room hash(event id) event     an event not held that a given state names, and whose state
//! 10 room                          deleted: what is left of it is to be removed
//! 11                               where "mark" was before format 3
//! 12 room page                     Block         the other bodies of a page that is full, together
//! 13 room arrival event            a forward extremity, the last to arrive first: the state after it
//! 14 room hash(target id) n event  a redaction of the target; n: whether it takes effect
//! 15 room arrival event            power levels, the last to arrive first
//! 16 room arrival event            a redaction, where that takes power
//! ```
//!
//! Every value ends with a checksum over key and value.
//!
//! # Promises
//!
//! - One decision is one [`Edit`], one atomic batch. Several trees in one batch would tear in a
//!   crash; one tree does not.
//! - What [`Store::flush`] has returned for is on disk. Writers that flush together share one.
//! - sled 0.34.7, not its alpha: the alpha is four to nine times slower on keys like ours and
//!   takes several times the memory. What it leaves open about power cuts is seen to around it:
//!   [`durable`], [`opening`].

mod block;
mod body;
mod codec;
mod decide;
mod deletion;
mod disk;
mod durable;
mod edit;
mod error;
mod flush;
mod format;
mod helpers;
mod judged;
mod kept;
mod keys;
mod mark;
mod nodes;
mod notes;
mod opening;
mod packing;
mod panics;
mod record;
mod removals;
mod room_locks;
mod sealing;
mod size;
mod space;
mod strays;
mod view;
mod watchdog;

use std::{
    collections::BTreeSet,
    fs::File,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use body::Body;
pub use decide::Decision;
pub use deletion::DeletedRoom;
pub use durable::Durability;
pub use edit::Edit;
pub use error::StoreError;
use flush::Flushes;
pub use judged::Judged;
pub use keys::{PAGE_EVENTS, Part};
use mark::Mark;
pub use nodes::{StateNodes, Topology};
pub use notes::{Judgement, Power, Unsettled};
use opening::Closing;
pub use panics::caught;
pub use record::{EventNode, Extremity, FetchedKeys, Flags, GivenEvent, Room, StateFacts};
use removals::Removals;
pub use removals::{Moment, Removed};
use room_locks::RoomLocks;
use space::Space;
pub use strays::{Astray, Place, Stray};
pub use view::View;
use watchdog::Watchdog;

/// Counts of what was removed; rooms share them by the bytes of their ids.
const REMOVAL_COUNTS: usize = 256;

/// Number of a room in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNum(pub(crate) u32);

/// Number of an event in its room, in the order in which events came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNum(pub(crate) u32);

/// Number of a state record in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateNum(pub(crate) u32);

/// An edge to a predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrevEvent {
    /// Held in this room; it may be an outlier.
    Held(EventNum),
    /// Not held.
    Missing,
}

/// The store. Cheap to share by reference; one process at a time.
pub struct Store {
    tree: sled::Db,
    next_room: AtomicU32,
    room_locks: RoomLocks,
    erased_users: RwLock<BTreeSet<String>>,
    flushes: Flushes,
    mark: Mark,
    caches: disk::Caches,
    data_dir: PathBuf,
    space: Space,
    /// What was removed that a reader may have been about to read; as many as there are locks.
    removals: Vec<Removals>,
    /// One purge at a time.
    purging: Mutex<()>,
    /// Set for good when a write or a flush has failed: sled may be poisoned from then on.
    failed: AtomicBool,
    /// Bytes in batches since the last flush.
    unflushed: AtomicUsize,
    /// Records read and written.
    #[cfg(test)]
    pub(crate) touched: std::sync::atomic::AtomicU64,
    /// Behind what uses sled: it closes it.
    closing: Closing,
    watchdog: Watchdog,
    /// Held for as long as the store is open.
    _lock: File,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it lies; made if it is not there.
    pub data_dir: PathBuf,
    /// Memory for caches, in bytes: an eighth of it for states, a quarter for events as they are
    /// served, the rest for sled's pages.
    pub cache_bytes: u64,
    /// Bytes of the volume that are never written to: sled cannot open a store on a full disk.
    /// Once there was less, a quarter more must be free.
    pub reserved_bytes: u64,
    /// Whether to refuse a file system that does not make each write durable before it returns.
    pub require_durable: bool,
    /// How long a write to the store may take before the process is ended.
    pub flush_timeout: Duration,
}

impl Options {
    /// The usual time after which a write that has not returned ends the process: many times what
    /// a write takes on a slow disk.
    pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

    /// A store in a directory, with little memory, and nothing kept free.
    #[must_use]
    pub fn small(data_dir: &Path) -> Self {
        Self::plain(data_dir.to_owned(), 16 << 20)
    }

    /// A store in a directory, with so many bytes for caches, and nothing kept free.
    #[must_use]
    pub fn plain(data_dir: PathBuf, cache_bytes: u64) -> Self {
        let flush_timeout = Self::FLUSH_TIMEOUT;
        Self { data_dir, cache_bytes, reserved_bytes: 0, require_durable: false, flush_timeout }
    }
}

impl Store {
    /// What was removed from the rooms that share a count.
    fn removals(&self, room_id: &str) -> Option<&Removals> {
        let sum =
            room_id.bytes().fold(0usize, |sum, it| sum.wrapping_mul(31).wrapping_add(it.into()));
        self.removals.get(sum % REMOVAL_COUNTS)
    }

    /// Waits until no other purge is under way, and keeps others from beginning.
    pub fn purge_alone(&self) -> MutexGuard<'_, ()> {
        self.purging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rooms after a number, in the order in which they came, at most `limit`.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn rooms(
        &self,
        after: Option<RoomNum>,
        limit: usize,
    ) -> Result<Vec<(RoomNum, Room)>, StoreError> {
        let after = after.map(keys::room);
        let records = self.scan(&keys::rooms(), after.as_deref(), limit)?;
        let room = |(key, value): &(Vec<u8>, sled::IVec)| {
            let damaged = || StoreError::corrupt("room", key);
            let number = keys::room_of(key).ok_or_else(damaged)?;
            let room = codec::unseal(key, value).and_then(Room::decode);
            Ok((number, room.map_err(|_| damaged())?))
        };
        records.iter().map(room).collect()
    }

    /// The rooms in which the state of some event may have become known: work that a crash cut
    /// off.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn unsettled_rooms(&self) -> Result<Vec<Room>, StoreError> {
        let mut rooms = Vec::new();
        let mut after = None;
        // One note of each room is enough: the next to look at lies behind all that it may have.
        while let Some((key, _)) = self.scan(&keys::all_unsettled(), after.as_deref(), 1)?.pop() {
            let number =
                keys::room_of(&key).ok_or_else(|| StoreError::corrupt("work left", &key))?;
            rooms.extend(self.read("room", &keys::room(number), Room::decode)?);
            after = Some(keys::unsettled(number, EventNum(u32::MAX)));
        }
        Ok(rooms)
    }

    /// Whether a user asked for erasure.
    pub fn is_erased(&self, user_id: &str) -> bool {
        self.erased_users.read().unwrap_or_else(PoisonError::into_inner).contains(user_id)
    }

    /// Whether any user asked for erasure.
    pub fn has_erased_users(&self) -> bool {
        !self.erased_users.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The users behind `after` who asked for erasure, in order, at most `limit`.
    pub fn erased_users(&self, after: &str, limit: usize) -> Vec<String> {
        let users = self.erased_users.read().unwrap_or_else(PoisonError::into_inner);
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        users.range::<str, _>(behind).take(limit).cloned().collect()
    }

    /// Marks a user as erased, or takes the mark back; on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_erased(&self, user_id: &str, erased: bool) -> Result<(), StoreError> {
        let mut users = self.erased_users.write().unwrap_or_else(PoisonError::into_inner);
        let key = keys::erased_user(user_id);
        if erased {
            let value = codec::seal(&key, Vec::new());
            self.write(|tree| tree.insert(key, value))?;
            users.insert(user_id.to_owned());
        } else {
            self.write(|tree| tree.remove(key))?;
            users.remove(user_id);
        }
        drop(users);
        self.flush()
    }

    /// A server's signing keys, as they were put.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn server_keys(&self, server_name: &str) -> Result<Option<FetchedKeys>, StoreError> {
        self.read("server keys", &keys::server_keys(server_name), FetchedKeys::decode)
    }

    /// Keeps a server's signing keys; on disk when this returns.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_server_keys(
        &self,
        server_name: &str,
        fetched: &FetchedKeys,
    ) -> Result<(), StoreError> {
        let key = keys::server_keys(server_name);
        let value = codec::seal(&key, fetched.encode());
        self.write(|tree| tree.insert(key, value))?;
        self.flush()
    }

    /// Returns when everything written before the call is on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.flushes.wait(|| self.flush_counted())
    }

    /// Whether a write has failed: then nothing can be relied on before the store is opened again.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// What makes the store's writes durable.
    pub fn durability(&self) -> Durability {
        self.closing.durable.durability()
    }

    /// Writes. A write that fails is remembered, and one that does not return ends the process.
    fn write<T>(&self, write: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let _watched = self.watchdog.watch("a write to the store");
        self.noted(caught(|| write(&self.tree)).and_then(|it| Ok(it?)))
    }

    /// Remembers a failed write.
    fn noted<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
