//! Putting right what can be derived again from what is sound, and nothing else.
//!
//! The store is looked through; rooms with faults are derived again, from the bodies up, by the
//! code that derived them first; then the store is looked through once more, and what is not named
//! any more is repaired. So the outcome is seen, not believed.
//!
//! A room of which something is lost (a body, a node, a state that came with an event) is left
//! alone as a whole: what is derived from the rest would hide that something is missing.
//!
//! Each decision is one atomic batch, and none of them leaves the store worse than it was, so a
//! repair that is cut off can be run again. Nobody else may use the store meanwhile.

mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
};

use super::{Fault, Remedy, Watch, What, verify};
use crate::{
    ingest,
    store::{Store, StoreError},
};

/// What is repaired may bring to light what is behind it; not more often than this.
const ROUNDS: usize = 3;

/// What a repair came to.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What is right now, and how that came.
    pub mended: Vec<(Fault, Remedy)>,
    /// What is not, and why.
    pub left: Vec<(Fault, Left)>,
    /// State records of no use that were removed.
    pub unused_states: u64,
}

/// Why a fault was not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// What could tell how it was is what is wrong.
    Lost,
    /// Something of the room is lost.
    WithTheRoom,
    /// Whether a redaction was lost cannot be told.
    StaysHidden,
    /// It was tried.
    InVain,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "nothing that is held says how it was: restore from a backup",
            Self::WithTheRoom => {
                "its room has faults that cannot be repaired, so nothing of it is derived again: \
                 restore from a backup"
            }
            Self::StaysHidden => {
                "it stays hidden, since a redaction may have been lost: restore from a backup"
            }
            Self::InVain => "what it follows from is not sound either: restore from a backup",
        })
    }
}

/// Repairs what can be repaired, and looks whether it is. `looked_at` is told how many more events
/// were looked at.
///
/// # Errors
/// When the store fails. What was repaired until then is.
pub fn repair(store: &Store, looked_at: &mut dyn FnMut(u32)) -> Result<Repaired, StoreError> {
    match ingest::recover(store) {
        // Named below.
        Ok(left) => left.iter().try_for_each(|it| ingest::settle_waiting(store, it))?,
        Err(failure) if !is_named(&failure) => return Err(failure),
        Err(_) => {}
    }
    let mut found = Found::look(store, looked_at)?;
    let mut outcome = Repaired { unused_states: found.unused.values().sum(), ..Default::default() };
    let mut ever: BTreeSet<Fault> = BTreeSet::new();
    for _ in 0..ROUNDS {
        ever.extend(found.faults.iter().cloned());
        let lost = found.lost();
        let mut rooms: BTreeMap<&str, Vec<&What>> =
            found.unused.keys().map(|it| (it.as_str(), Vec::new())).collect();
        for fault in found.faults.iter().filter(|it| !it.room_id.is_empty()) {
            rooms.entry(&fault.room_id).or_default().push(&fault.what);
        }
        rooms.retain(|room_id, _| !lost.contains(*room_id));
        if rooms.is_empty() {
            break;
        }
        for (room_id, faults) in rooms {
            match room::mend(store, room_id, &faults) {
                // What could not be read is named again.
                Err(failure) if !is_named(&failure) => return Err(failure),
                Ok(()) | Err(_) => {}
            }
        }
        store.flush()?;
        let before = found;
        found = Found::look(store, looked_at)?;
        if found.faults.is_empty() || found.faults == before.faults {
            break;
        }
    }
    let lost = found.lost();
    outcome.unused_states -= found.unused.values().sum::<u64>().min(outcome.unused_states);
    for fault in ever.into_iter().filter(|it| !found.faults.contains(it)) {
        let remedy = fault.what.remedy();
        outcome.mended.push((fault, remedy));
    }
    for fault in found.faults {
        let left = match fault.what.remedy() {
            Remedy::Restore => Left::Lost,
            Remedy::StayHidden => Left::StaysHidden,
            _ if fault.room_id.is_empty() => Left::Lost,
            _ if lost.contains(&fault.room_id) => Left::WithTheRoom,
            Remedy::Draw | Remedy::Derive | Remedy::Count | Remedy::Remove => Left::InVain,
        };
        outcome.left.push((fault, left));
    }
    Ok(outcome)
}

/// Whether a look through the store names what has failed here.
fn is_named(failure: &StoreError) -> bool {
    failure.is_of_record() || matches!(failure, StoreError::RoomVersionUnknown { .. })
}

/// What a look through the store found.
#[derive(Default)]
struct Found {
    faults: BTreeSet<Fault>,
    /// State records of no use, by room.
    unused: BTreeMap<String, u64>,
}

/// Who looks, and tells how far it has come.
struct Looking<'w> {
    found: Found,
    looked_at: &'w mut dyn FnMut(u32),
}

impl Found {
    fn look(store: &Store, looked_at: &mut dyn FnMut(u32)) -> Result<Self, StoreError> {
        let mut looking = Looking { found: Self::default(), looked_at };
        match verify(store, &mut looking)? {
            // It is never told to end.
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(looking.found),
        }
    }

    /// The rooms of which something is lost.
    fn lost(&self) -> BTreeSet<String> {
        let lost = self.faults.iter().filter(|it| it.what.remedy() == Remedy::Restore);
        lost.map(|it| it.room_id.clone()).collect()
    }
}

impl Watch for Looking<'_> {
    fn events(&mut self, count: u32) {
        (self.looked_at)(count);
    }

    fn fault(&mut self, fault: Fault) {
        self.found.faults.insert(fault);
    }

    fn unused_states(&mut self, room_id: &str, records: u64) {
        *self.found.unused.entry(room_id.to_owned()).or_default() += records;
    }
}

#[cfg(test)]
mod tests;
