//! Walking a whole store and naming everything that is not as it should be.
//!
//! What can be derived again is derived again and compared: ids and hashes from bodies, edges from
//! bodies, extremities and counters from nodes, states and redactions from the graph. So a fault
//! is found wherever it lies, and sled, whose checks end at its own pages, need not be believed.
//!
//! Changes nothing. Works room by room, a few events at a time; nobody writes to the room
//! meanwhile only for as long as a few events take.

mod events;
mod graph;
mod states;

use std::fmt;

use crate::{
    pdu::RoomVersion,
    store::{Room, RoomNum, Store, StoreError, View},
};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The room; empty when no room can be named.
    pub room_id: String,
    /// The event, where one can be named.
    pub event_id: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room_id, event_id, what } = self;
        [room_id, event_id]
            .iter()
            .filter(|it| !it.is_empty())
            .try_for_each(|it| write!(f, "{it} "))?;
        write!(f, "{what}")
    }
}

/// Who follows a walk: told of progress and of faults as they are found.
pub trait Watch {
    /// So many more events have been looked at.
    fn events(&mut self, count: u32);
    /// Something is wrong.
    fn fault(&mut self, fault: Fault);
}

/// How many events there are to look at.
///
/// # Errors
/// When the rooms cannot be read.
pub fn extent(store: &Store) -> Result<u64, StoreError> {
    Ok(all_rooms(store)?.iter().map(|(_, room)| u64::from(room.next_event.0)).sum())
}

/// Walks the whole store. A record that cannot be read is a fault, not an error.
///
/// # Errors
/// When the disk fails.
pub fn verify(store: &Store, watch: &mut dyn Watch) -> Result<(), StoreError> {
    for (number, room) in all_rooms(store)? {
        let room_id = room.room_id.clone();
        if store.room_num(&room_id)? != Some(number) {
            let what = "the room's id does not lead to its record".to_owned();
            watch.fault(Fault { room_id: room_id.clone(), event_id: String::new(), what });
        }
        match RoomVersion::parse(&room.room_version) {
            Ok(version) => {
                Walk { store, number, version, room_id, watch: &mut *watch }.through(&room)?;
            }
            Err(_) => {
                let what = format!("has the unknown version {}", room.room_version);
                watch.fault(Fault { room_id, event_id: String::new(), what });
            }
        }
    }
    Ok(())
}

/// Rooms, with their numbers.
fn all_rooms(store: &Store) -> Result<Vec<(RoomNum, Room)>, StoreError> {
    store.rooms(None, usize::MAX)
}

/// A walk through one room.
struct Walk<'a> {
    store: &'a Store,
    number: RoomNum,
    version: RoomVersion,
    room_id: String,
    watch: &'a mut dyn Watch,
}

impl Walk<'_> {
    fn through(mut self, room: &Room) -> Result<(), StoreError> {
        self.states(room)?;
        self.events()?;
        self.graph(room)
    }

    fn fault(&mut self, event_id: &str, what: impl Into<String>) {
        let (room_id, event_id) = (self.room_id.clone(), event_id.to_owned());
        self.watch.fault(Fault { room_id, event_id, what: what.into() });
    }

    /// Makes a damaged record a fault, and anything else that fails an error.
    fn tolerate(&mut self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        match outcome {
            Err(StoreError::Corrupt { what, key }) => {
                self.fault("", format!("damaged {what} (key {key})"));
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
