//! Repairs what can be derived again from sound records, and nothing else.
//!
//! The store is verified. Rooms with faults are derived again, from the bodies up, by the code that
//! derived them first. Then the store is verified once more: the faults that are not found again
//! were repaired.
//!
//! If a record of a room is lost (a body, a node, a given state), the whole room is left alone:
//! records that are derived from the rest would conceal the loss.
//!
//! Each decision is one atomic batch that leaves the store no worse than it was, so a repair that is
//! interrupted can be run again. Nothing else may use the store meanwhile; other processes that share it
//! answer nothing until the repair has ended.

mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
};

use super::{Fault, FaultKind, Remedy, Watch, verify};
use crate::{
    ingest,
    store::{REPAIR_TIME, Store, StoreError},
};

/// The most rounds of a repair: repaired records may uncover faults in records that follow from
/// them.
const MAX_ROUNDS: usize = 3;

/// The result of a repair.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Faults that were repaired, and how.
    pub mended: Vec<(Fault, Remedy)>,
    /// Faults that are left, and why.
    pub left: Vec<(Fault, Unrepaired)>,
    /// The number of unused state records that were removed.
    pub unused_states: u64,
}

/// Why a fault was not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrepaired {
    /// The record cannot be derived from others.
    Lost,
    /// Another record of the room is lost.
    WithTheRoom,
    /// A redaction may be lost.
    StaysHidden,
    /// The repair did not help.
    InVain,
}

impl fmt::Display for Unrepaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "it cannot be derived from other records: restore from a backup",
            Self::WithTheRoom => {
                "its room has faults that cannot be repaired, so the whole room is left alone: \
                 restore from a backup"
            }
            Self::StaysHidden => {
                "it stays hidden, because a redaction may have been lost: restore from a backup"
            }
            Self::InVain => {
                "the records that it follows from are wrong, too: restore from a backup"
            }
        })
    }
}

/// Repairs the store, and verifies the result. `verified` is called with the number of events that
/// were verified since the last call. `now_ms` is the wall clock, in milliseconds since 1970; it
/// decides which content of redacted events is overdue.
///
/// # Errors
/// When the disk fails. Repairs up to then are kept.
pub fn repair(
    store: &Store,
    now_ms: u64,
    verified: &mut dyn FnMut(u32),
) -> Result<Repaired, StoreError> {
    let alone = store.repair_alone(2 * REPAIR_TIME)?;
    match ingest::recover(store) {
        Ok(left) => left.iter().try_for_each(|it| ingest::settle_waiting(store, it))?,
        Err(failure) if !is_reported(&failure) => return Err(failure),
        // The verification reports it.
        Err(_) => {}
    }
    let verified = &mut |count| {
        verified(count);
        alone.prolong();
    };
    let mut found = Found::verify(store, now_ms, verified)?;
    let mut outcome = Repaired { unused_states: found.unused.values().sum(), ..Default::default() };
    let mut ever: BTreeSet<Fault> = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        ever.extend(found.faults.iter().cloned());
        let rooms = found.repairable_rooms();
        if rooms.is_empty() {
            break;
        }
        for (room_id, faults) in rooms {
            alone.check()?;
            match room::mend(store, room_id, &faults) {
                Err(failure) if !is_reported(&failure) => return Err(failure),
                // The next verification reports a record that could not be read.
                Ok(()) | Err(_) => {}
            }
        }
        store.flush()?;
        let before = found;
        found = Found::verify(store, now_ms, verified)?;
        if found.faults.is_empty() || found.faults == before.faults {
            break;
        }
    }
    outcome.unused_states -= found.unused.values().sum::<u64>().min(outcome.unused_states);
    for fault in ever.into_iter().filter(|it| !found.faults.contains(it)) {
        let remedy = fault.kind.remedy();
        outcome.mended.push((fault, remedy));
    }
    outcome.left = found.into_left();
    Ok(outcome)
}

/// Whether a verification reports the record that a failure is about.
fn is_reported(failure: &StoreError) -> bool {
    failure.is_of_record() || matches!(failure, StoreError::RoomVersionUnknown { .. })
}

/// The result of a verification.
#[derive(Default)]
struct Found {
    faults: BTreeSet<Fault>,
    /// The number of unused state records, by room id.
    unused: BTreeMap<String, u64>,
}

impl Found {
    fn verify(
        store: &Store,
        now_ms: u64,
        verified: &mut dyn FnMut(u32),
    ) -> Result<Self, StoreError> {
        let mut collector = Collector { found: Self::default(), now_ms, verified };
        match verify(store, &mut collector)? {
            // The collector never stops the verification.
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(collector.found),
        }
    }

    /// The ids of rooms of which a record is lost; an empty id for faults outside all rooms.
    fn lost_rooms(&self) -> BTreeSet<String> {
        let lost = self.faults.iter().filter(|it| it.kind.remedy() == Remedy::Restore);
        lost.map(|it| it.room_id.clone()).collect()
    }

    /// The rooms with faults or unused records of which no record is lost, with their faults.
    fn repairable_rooms(&self) -> BTreeMap<&str, Vec<&FaultKind>> {
        let mut rooms: BTreeMap<&str, Vec<&FaultKind>> =
            self.unused.keys().map(|it| (it.as_str(), Vec::new())).collect();
        for fault in self.faults.iter().filter(|it| !it.room_id.is_empty()) {
            rooms.entry(&fault.room_id).or_default().push(&fault.kind);
        }
        let lost = self.lost_rooms();
        rooms.retain(|room_id, _| !lost.contains(*room_id));
        rooms
    }

    /// The faults, with the reasons why they are left.
    fn into_left(self) -> Vec<(Fault, Unrepaired)> {
        let lost = self.lost_rooms();
        let why = |fault: &Fault| match fault.kind.remedy() {
            Remedy::Restore => Unrepaired::Lost,
            Remedy::KeepHidden => Unrepaired::StaysHidden,
            _ if fault.room_id.is_empty() => Unrepaired::Lost,
            _ if lost.contains(&fault.room_id) => Unrepaired::WithTheRoom,
            Remedy::FromBodies
            | Remedy::FromGraph
            | Remedy::Recount
            | Remedy::Remove
            | Remedy::RemoveContent => Unrepaired::InVain,
        };
        self.faults.into_iter().map(|fault| (fault.clone(), why(&fault))).collect()
    }
}

/// Collects the faults of a verification, and passes its progress on.
struct Collector<'w> {
    found: Found,
    now_ms: u64,
    verified: &'w mut dyn FnMut(u32),
}

impl Watch for Collector<'_> {
    fn events(&mut self, count: u32) {
        (self.verified)(count);
    }

    fn fault(&mut self, fault: Fault) {
        self.found.faults.insert(fault);
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn unused_states(&mut self, room_id: &str, records: u64) {
        *self.found.unused.entry(room_id.to_owned()).or_default() += records;
    }
}

#[cfg(test)]
mod tests;
