//! The rooms that this process knows, and the numbers that stand for them here.
//!
//! A number is never given twice. A room gets another number when another process has replaced or
//! removed something in it, which its row says by another `life`, or when the database is another than
//! before (see [`Epoch`]). So whatever the program keeps in memory under a number stays right, without
//! knowing of other processes: an old number is simply not asked for any more.
//!
//! The row of a room has a random `stamp`, another one after each commit. Records that were read are
//! kept under a [`CacheTick`], which belongs to one stamp: a stamp that this process did not set itself means
//! that anything may have changed, and gives the room another tick. A commit of this process knows what
//! it changes, and keeps the tick.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use quick_cache::sync::Cache;

use super::{super::StoredValue, cache::CacheTick, database::Epoch, layout::RoomUuid};
use crate::store::RoomNum;

/// The most rooms that are known at a time. One takes about a kilobyte of memory.
const MAX_ROOMS: usize = 200_000;
/// The most numbers that stand for a room. Those that stand for it no longer are forgotten first.
const MAX_NUMBERS: usize = 1_000_000;

/// The row of a room, as a round trip brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoomRow {
    /// Another random number after each commit.
    pub(super) stamp: i64,
    /// Another random number after each commit that replaces or removes something.
    pub(super) life: i64,
    /// Another random number when a deleted room is made again.
    pub(super) made: i64,
    /// The id of the room.
    pub(super) name: String,
    /// Whether the room was deleted and may not return.
    pub(super) is_gone: bool,
    /// The record of the room, as the database keeps it; `None` if the room is not held.
    pub(super) value: Option<StoredValue>,
}

/// What a number stands for.
pub(super) struct KnownRoom {
    pub(super) number: RoomNum,
    pub(super) uuid: RoomUuid,
    epoch: Epoch,
    now: Mutex<Option<Now>>,
}

/// What is known of a room by now.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) row: RoomRow,
    /// Where its records are kept in memory.
    pub(super) tick: CacheTick,
}

impl KnownRoom {
    /// Whether a round trip that came from the database `epoch` may be used for the room under this
    /// number. If a standby was promoted, what was read before may not exist there.
    pub(super) fn is_of(&self, epoch: Epoch) -> bool {
        self.epoch == epoch
    }

    /// What is known of the room by now; `None` while the decision that makes it is not committed. Held
    /// while records that were read are kept in memory.
    pub(super) fn now(&self) -> MutexGuard<'_, Option<Now>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the room's records are kept in memory; `None` for a room that is not made yet.
    pub(super) fn tick(&self) -> Option<CacheTick> {
        self.now().as_ref().map(|it| it.tick)
    }

    /// Whether the newest known row of the room has another life than `life`.
    pub(super) fn has_other_life(&self, life: i64) -> bool {
        self.now().as_ref().is_some_and(|it| it.row.life != life)
    }

    /// The newest known row of the room; `None` for a room that is not made yet.
    pub(super) fn row(&self) -> Option<RoomRow> {
        self.now().as_ref().map(|it| it.row.clone())
    }
}

/// The rooms that this process knows.
pub(super) struct KnownRooms {
    by_uuid: Cache<RoomUuid, Arc<KnownRoom>>,
    by_number: Cache<RoomNum, Arc<KnownRoom>>,
    next_number: AtomicU32,
    next_tick: AtomicU64,
    /// The database that the numbers of rooms are about. Held while a room gets a number.
    epoch: Mutex<Option<Epoch>>,
}

impl KnownRooms {
    pub(super) fn new() -> Self {
        Self {
            by_uuid: Cache::new(MAX_ROOMS),
            by_number: Cache::new(MAX_NUMBERS),
            next_number: AtomicU32::new(0),
            next_tick: AtomicU64::new(0),
            epoch: Mutex::default(),
        }
    }

    /// What a number stands for; `None` if that was forgotten, or if it was never given.
    pub(super) fn of_number(&self, number: RoomNum) -> Option<Arc<KnownRoom>> {
        self.by_number.get(&number)
    }

    /// What stands for a room now; `None` if it is not known.
    pub(super) fn of_uuid(&self, uuid: RoomUuid) -> Option<Arc<KnownRoom>> {
        self.by_uuid.get(&uuid)
    }

    /// Takes note of the row of a room. Returns what stands for the room from now on.
    pub(super) fn learn(&self, uuid: RoomUuid, row: RoomRow, epoch: Epoch) -> Arc<KnownRoom> {
        let _numbering = self.in_epoch(epoch);
        if let Some(known) = self.by_uuid.get(&uuid)
            && known.epoch == epoch
            && self.is_learnt(&known, &row)
        {
            return known;
        }
        let now = Now { row, tick: self.tick() };
        let known = self.add(uuid, epoch, Some(now));
        self.by_uuid.insert(uuid, Arc::clone(&known));
        known
    }

    /// Takes note that a room has no row, or one that says that it was deleted and may return.
    pub(super) fn forget(&self, uuid: RoomUuid, epoch: Epoch) {
        let _numbering = self.in_epoch(epoch);
        self.by_uuid.remove(&uuid);
    }

    /// A number for a room that this process is about to make.
    pub(super) fn number_for_new(&self, uuid: RoomUuid, epoch: Epoch) -> RoomNum {
        self.add(uuid, epoch, None).number
    }

    /// Takes note of a commit of this process: the row that the room had, and the one that it has now.
    /// `change` is called, with the place of the room's records in memory, if nothing else has changed
    /// the room since.
    pub(super) fn committed(
        &self,
        known: &Arc<KnownRoom>,
        before: Option<i64>,
        row: RoomRow,
        change: impl FnOnce(CacheTick),
    ) {
        let numbering = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = known.now();
        match now.as_mut() {
            Some(now) if Some(now.row.stamp) == before => {
                now.row = row;
                change(now.tick);
            }
            // A round trip has brought the row already.
            Some(_) => {}
            None => {
                let tick = self.tick();
                *now = Some(Now { row, tick });
                change(tick);
                if self.by_uuid.peek(&known.uuid).is_none() && *numbering == Some(known.epoch) {
                    self.by_uuid.insert(known.uuid, Arc::clone(known));
                }
            }
        }
    }

    /// Takes note of a commit of this process that did not depend on what the room was: others may have
    /// changed it before. Only what the commit itself says is known.
    pub(super) fn changed_unseen(&self, known: &KnownRoom, row: RoomRow) {
        let tick = self.tick();
        if let Some(now) = known.now().as_mut() {
            // A stamp that no row has, so that the next row is taken for another one.
            *now = Now { row: RoomRow { stamp: !row.stamp, ..row }, tick };
        }
    }

    /// Takes note that this process has made a room vacant.
    pub(super) fn forget_now(&self, uuid: RoomUuid) {
        self.by_uuid.remove(&uuid);
    }

    /// Whether a row is of the same life of the room. Then it is the newest from now on.
    fn is_learnt(&self, known: &KnownRoom, row: &RoomRow) -> bool {
        let mut now = known.now();
        let Some(now) = now.as_mut() else { return false };
        let is_same = now.row.life == row.life && now.row.made == row.made;
        if is_same && now.row.stamp != row.stamp {
            *now = Now { row: row.clone(), tick: self.tick() };
        }
        is_same
    }

    fn add(&self, uuid: RoomUuid, epoch: Epoch, now: Option<Now>) -> Arc<KnownRoom> {
        let number = RoomNum(self.next_number.fetch_add(1, Ordering::Relaxed));
        let known = Arc::new(KnownRoom { number, uuid, epoch, now: Mutex::new(now) });
        self.by_number.insert(number, Arc::clone(&known));
        known
    }

    /// A new place for records in memory.
    fn tick(&self) -> CacheTick {
        CacheTick(self.next_tick.fetch_add(1, Ordering::Relaxed))
    }

    /// If the database is another than before, no room keeps its number: commits that this process has
    /// seen may be lost, and numbers of events may be given to others.
    fn in_epoch(&self, epoch: Epoch) -> MutexGuard<'_, Option<Epoch>> {
        let mut known = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if known.replace(epoch).is_some_and(|before| before != epoch) {
            self.by_uuid.clear();
        }
        known
    }
}
