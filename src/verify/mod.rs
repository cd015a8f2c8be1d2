//! Walking a whole store and naming everything that is not as it should be.
//!
//! What can be derived again is derived again and compared: ids and hashes from bodies, edges from
//! bodies, extremities and counters from nodes, states and redactions from the graph. So a fault
//! is found wherever it lies, and sled, whose checks end at its own pages, need not be believed.
//!
//! Then every record on disk is looked at: what nothing leads to is a fault as well.
//!
//! [`verify()`] changes nothing, and may be done while others write: it works room by room, a few
//! events at a time, and nobody writes to the room meanwhile only for as long as that takes; then
//! once for as long as the room's edges and flags take, a second or two for a million events.
//!
//! [`repair()`] puts right what can be derived again; what can be done about which fault is one
//! table, [`What::remedy`].

mod events;
mod fault;
mod graph;
mod repair;
mod states;

use std::ops::ControlFlow;

use crate::{
    pdu::RoomVersion,
    store::{Cursor, Edit, RoomNum, Store, StoreError, View},
};

pub use fault::{Counted, Fault, Remedy, What};
pub use repair::{Left, Repaired, repair};

/// Rooms listed at once.
const ROOMS_AT_ONCE: usize = 1_000;
/// Records looked at between two pauses.
const RECORDS_AT_ONCE: usize = 512;

/// Who follows a walk: told of progress and of faults as they are found.
pub trait Watch {
    /// So many more events have been looked at.
    fn events(&mut self, count: u32);
    /// Something is wrong.
    fn fault(&mut self, fault: Fault);
    /// So many of a room's state records are in nobody's way and nobody's use: what was resolved
    /// over forward extremities that are none any more, and what a purge that was cut off has left.
    fn unused_states(&mut self, _room_id: &str, _records: u64) {}
    /// Between two pieces of work, while nobody waits for us: a moment to rest, or to end it.
    fn pause(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// How many events there are to look at.
///
/// # Errors
/// When the disk fails.
pub fn extent(store: &Store) -> Result<u64, StoreError> {
    let (mut last, mut events) = (None, 0);
    loop {
        let rooms = store.room_nums(last, ROOMS_AT_ONCE)?;
        let Some(end) = rooms.last() else { return Ok(events) };
        last = Some(*end);
        for number in rooms {
            match store.find_room(number) {
                Ok(room) => events += room.map_or(0, |it| u64::from(it.next_event.0)),
                Err(StoreError::Corrupt { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

/// Walks the whole store, until it is done or `watch` ends it. A record that cannot be read is a
/// fault, not an error.
///
/// # Errors
/// When the disk fails.
pub fn verify(store: &Store, watch: &mut dyn Watch) -> Result<ControlFlow<()>, StoreError> {
    let mut last = None;
    loop {
        let rooms = store.room_nums(last, ROOMS_AT_ONCE)?;
        let Some(end) = rooms.last() else { break };
        last = Some(*end);
        for number in rooms {
            let walk =
                Walk { store, number, version: RoomVersion::V1, room_id: String::new(), watch };
            if walk.begin()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    let mut from = Cursor::default();
    loop {
        let (orphans, next) = store.orphans(&from, RECORDS_AT_ONCE)?;
        for orphan in orphans {
            let room_id = orphan.room_id.clone().unwrap_or_default();
            let what = What::Orphan(orphan);
            watch.fault(Fault { room_id, event_id: String::new(), what });
        }
        let Some(next) = next else { return Ok(ControlFlow::Continue(())) };
        from = next;
        if watch.pause().is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// A walk through one room.
struct Walk<'a> {
    store: &'a Store,
    number: RoomNum,
    version: RoomVersion,
    room_id: String,
    watch: &'a mut dyn Watch,
}

impl<'a> Walk<'a> {
    fn begin(mut self) -> Result<ControlFlow<()>, StoreError> {
        let room = match self.store.find_room(self.number) {
            Ok(Some(room)) => room,
            // Deleted since it was listed, or damaged and named with all other records.
            Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(ControlFlow::Continue(())),
            Err(other) => return Err(other),
        };
        self.room_id = room.room_id;
        let found = self.store.room_num(&self.room_id);
        let is_it = matches!(found, Ok(Some(number)) if number == self.number);
        if let Err(failure @ (StoreError::Engine(_) | StoreError::File { .. })) = found {
            return Err(failure);
        }
        if !is_it {
            self.fault("", What::RoomNowhere)?;
            return Ok(ControlFlow::Continue(()));
        }
        match RoomVersion::parse(&room.room_version) {
            Ok(version) => self.version = version,
            Err(_) => {
                self.fault("", What::VersionUnknown(room.room_version))?;
                return Ok(ControlFlow::Continue(()));
            }
        }
        if self.states()?.is_break() || self.events()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.whole()?;
        Ok(self.watch.pause())
    }

    /// Holds the room still; nothing if it is not there any more.
    fn hold(&self) -> Result<Option<Edit<'a>>, StoreError> {
        match self.store.edit(&self.room_id, None) {
            Ok(edit) => Ok(edit.filter(|it| it.room_num() == self.number)),
            // Named with all other records.
            Err(failure) if failure.is_of_record() => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Says what is wrong, unless the room was deleted meanwhile.
    fn fault(&mut self, event_id: &str, what: What) -> Result<(), StoreError> {
        if self.store.has_room(self.number)? {
            let (room_id, event_id) = (self.room_id.clone(), event_id.to_owned());
            self.watch.fault(Fault { room_id, event_id, what });
        }
        Ok(())
    }

    /// Makes a damaged record a fault, and anything else that fails an error.
    fn tolerate(&mut self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        match outcome {
            Err(StoreError::Corrupt { what, key } | StoreError::Missing { what, key }) => {
                self.fault("", What::Damaged { what, key })
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
