//! The numbers that stand for rooms, events and states inside one store.

use crate::state::map::Ptr;

/// The number of a room in this store. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNum(pub(crate) u32);

/// The number of an event in its room, in the order in which events were stored. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNum(pub(crate) u32);

/// The number of a state record in its room. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateNum(pub(crate) u32);

impl StateNum {
    /// The root of the map of this state.
    #[must_use]
    pub fn root(self) -> Ptr {
        Ptr { record: self.0, slot: 0 }
    }
}
