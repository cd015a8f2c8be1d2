//! Verifies a whole store, and repairs it.
//!
//! [`verify()`] derives again everything that can be derived, and compares it with what is stored:
//! ids and hashes from bodies, edges from bodies, extremities and counters from nodes, states and
//! redactions from the graph. A fault is found wherever it is, and the storage engine, whose
//! checksums cover its own pages only, is not trusted. Then every record on disk is read: a record
//! that no other record refers to is a fault as well.
//!
//! [`verify()`] changes nothing, and other threads may write meanwhile. It works room by room, a few
//! events at a time; writers of the room wait only for that long. At the end of each room they wait
//! once while all edges and flags of the room are read: a second or two for a million events.
//!
//! [`repair()`] replaces the faulty records that can be derived again. What can be done about which
//! fault is one table: [`FaultKind::remedy`].

mod content;
mod events;
mod fault;
mod graph;
mod repair;
mod states;

use std::{collections::BTreeSet, ops::ControlFlow};

use crate::{
    pdu::RoomVersion,
    store::{Cursor, Edit, RoomNum, RoomStamp, Store, StoreError, View},
};

pub use fault::{Counted, Fault, FaultKind, Remedy};
pub use repair::{Repaired, Unrepaired, repair};

/// Rooms that are listed at once.
const ROOMS_PER_PAGE: usize = 1_000;
/// Records that are read between two pauses.
const RECORDS_PER_PAUSE: usize = 512;
/// How often a room is verified again because another process changed it.
const MAX_TRIES: u32 = 16;

/// Receives the progress and the faults of a verification.
pub trait Watch {
    /// `count` more events have been verified.
    fn events(&mut self, count: u32);

    /// A fault was found.
    fn fault(&mut self, fault: Fault);

    /// Reports unused state records of a room: harmless leftovers of superseded forward extremities
    /// or of an interrupted purge.
    fn unused_states(&mut self, _room_id: &str, _records: u64) {}

    /// The wall clock, in milliseconds since 1970. It decides which content of redacted events is
    /// overdue; with the clock at 0, none is.
    fn now_ms(&self) -> u64 {
        0
    }

    /// Called between two pieces of work, while no writer waits: a chance to sleep, or to stop the
    /// verification.
    fn pause(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// The number of events in the store, for a progress bar. Rooms with a damaged record are left out.
pub fn extent(store: &Store) -> Result<u64, StoreError> {
    let mut last = None;
    let mut events = 0;
    loop {
        let rooms = store.room_nums(last, ROOMS_PER_PAGE)?;
        let Some(end) = rooms.last() else { return Ok(events) };
        last = Some(*end);
        for number in rooms {
            match store.find_room(number) {
                Ok(room) => events += room.map_or(0, |it| u64::from(it.next_event.0)),
                // Damaged, or changed by another process since it was listed.
                Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

/// Verifies the whole store. Returns `Break` if `watch` stopped it.
///
/// # Errors
/// When the disk fails. A record that cannot be read is a fault, not an error.
pub fn verify(store: &Store, watch: &mut dyn Watch) -> Result<ControlFlow<()>, StoreError> {
    let mut last = None;
    let mut tries = MAX_TRIES;
    let mut reported = BTreeSet::new();
    loop {
        let rooms = store.room_nums(last, ROOMS_PER_PAGE)?;
        if rooms.is_empty() {
            break;
        }
        for number in rooms {
            let room = VerifiedRoom::new(store, number, watch, &mut reported);
            match room.verify()? {
                RoomEnded::Verified => last = Some(number),
                RoomEnded::Stopped => return Ok(ControlFlow::Break(())),
                // It is listed again, with the number that it has now.
                RoomEnded::Changed(_) if tries > 0 => {
                    tries -= 1;
                    break;
                }
                RoomEnded::Changed(room_id) => return Err(StoreError::Conflict { room_id }),
            }
            tries = MAX_TRIES;
            reported.clear();
        }
    }
    let mut from = Cursor::default();
    loop {
        let (orphans, next) = match store.orphans(&from, RECORDS_PER_PAUSE) {
            // Another process has changed a room since its records were listed.
            Err(StoreError::Missing { .. }) if store.is_shared() && tries > 0 => {
                tries -= 1;
                continue;
            }
            page => page?,
        };
        tries = MAX_TRIES;
        for orphan in orphans {
            let room_id = orphan.room_id.clone().unwrap_or_default();
            let kind = FaultKind::Orphan(orphan);
            watch.fault(Fault { room_id, event_id: String::new(), kind });
        }
        let Some(next) = next else { return Ok(ControlFlow::Continue(())) };
        from = next;
        if watch.pause().is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// How the verification of a room ended.
enum RoomEnded {
    Verified,
    /// `watch` stopped it.
    Stopped,
    /// Another process changed the room, so that what was read did not belong together. Contains the
    /// id of the room.
    Changed(String),
}

/// The room that is being verified.
struct VerifiedRoom<'a> {
    store: &'a Store,
    /// The number that the room has. Another process may give it another one between two steps.
    number: RoomNum,
    /// See [`Store::room_mark`].
    mark: u64,
    version: RoomVersion,
    room_id: String,
    watch: &'a mut dyn Watch,
    /// The stamp of the room when the running step began.
    stamp: Option<RoomStamp>,
    /// Whether another process changed the room during a step that seemed to find a fault.
    has_changed: bool,
    /// The faults of this room that were reported, in earlier tries too.
    reported: &'a mut BTreeSet<Fault>,
}

impl<'a> VerifiedRoom<'a> {
    fn new(
        store: &'a Store,
        number: RoomNum,
        watch: &'a mut dyn Watch,
        reported: &'a mut BTreeSet<Fault>,
    ) -> Self {
        Self {
            store,
            number,
            mark: store.room_mark(number),
            version: RoomVersion::V1,
            room_id: String::new(),
            watch,
            stamp: None,
            has_changed: false,
            reported,
        }
    }

    fn verify(mut self) -> Result<RoomEnded, StoreError> {
        let ended = self.verify_all();
        let is_missing = matches!(ended, Err(StoreError::Missing { .. }));
        if self.has_changed
            || (is_missing && self.store.may_have_changed(&self.room_id, &mut self.stamp)?)
        {
            return Ok(RoomEnded::Changed(self.room_id));
        }
        Ok(if ended?.is_break() { RoomEnded::Stopped } else { RoomEnded::Verified })
    }

    fn verify_all(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let room = match self.store.find_room(self.number) {
            Ok(Some(room)) => room,
            // Deleted since it was listed; or damaged, which is reported with all other records.
            Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(ControlFlow::Continue(())),
            Err(other) => return Err(other),
        };
        self.room_id = room.room_id;
        self.store.may_have_changed(&self.room_id, &mut self.stamp)?;
        let found = match self.store.room_num(&self.room_id) {
            Ok(found) => found,
            Err(failure) if failure.is_of_record() => None,
            Err(other) => return Err(other),
        };
        if found != Some(self.number) {
            self.fault("", FaultKind::RoomIdWrong)?;
            return Ok(ControlFlow::Continue(()));
        }
        match RoomVersion::parse(&room.room_version) {
            Ok(version) => self.version = version,
            Err(_) => {
                self.fault("", FaultKind::VersionUnknown(room.room_version))?;
                return Ok(ControlFlow::Continue(()));
            }
        }
        if self.states()?.is_break() || self.events()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.graph()?;
        Ok(self.watch.pause())
    }

    /// Locks the room, and begins a step; `None` if it does not exist any more, or its record is damaged.
    fn lock(&mut self) -> Result<Option<Edit<'a>>, StoreError> {
        match self.store.hold(&self.room_id) {
            Ok(edit) => {
                let edit = edit.filter(|it| self.store.room_mark(it.room_num()) == self.mark);
                if let Some(edit) = &edit {
                    self.number = edit.room_num();
                    self.stamp = Some(edit.stamp());
                }
                Ok(edit)
            }
            // Reported with all other records.
            Err(failure) if failure.is_of_record() => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Reports a fault, unless the room has been deleted meanwhile.
    fn fault(&mut self, event_id: &str, kind: FaultKind) -> Result<(), StoreError> {
        if self.store.may_have_changed(&self.room_id, &mut self.stamp)? {
            self.has_changed = true;
        } else if self.store.has_room(self.number)? {
            let room_id = self.room_id.clone();
            let fault = Fault { room_id, event_id: event_id.to_owned(), kind };
            if self.reported.insert(fault.clone()) {
                self.watch.fault(fault);
            }
        }
        Ok(())
    }

    /// Reports a damaged or missing record as a fault; any other failure stays an error.
    fn tolerate(&mut self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        match outcome {
            Err(StoreError::Corrupt { what, key } | StoreError::Missing { what, key }) => {
                self.fault("", FaultKind::Damaged { what, key })
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
