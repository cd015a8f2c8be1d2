//! The rooms of a store: listing them, and finding the record of one.

use std::collections::BTreeSet;

use super::{
    EventNum, FoundNum, Room, RoomNum, Store, StoreError, View, codec::strip_checksum,
    engine::StoredValue, keys,
};

/// Greater than the number of every event.
const LAST_EVENT: EventNum = EventNum(u32::MAX);

/// A room, by its id.
pub(super) struct NamedRoom {
    pub(super) room_id: String,
    /// What the id maps to.
    pub(super) number: FoundNum,
}

impl Store {
    /// The rooms with a number greater than `after`, in the order in which they were made, at most
    /// `limit`.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn rooms(
        &self,
        after: Option<RoomNum>,
        limit: usize,
    ) -> Result<Vec<(RoomNum, Room)>, StoreError> {
        let after = after.map(keys::room);
        let records = self.scan(&keys::rooms(), after.as_deref(), limit)?;
        let room = |(key, value): &(Vec<u8>, StoredValue)| {
            let damaged = || StoreError::corrupt("room", key);
            let number = keys::room_of(key).ok_or_else(damaged)?;
            let room = strip_checksum(key, value).and_then(Room::decode);
            Ok((number, room.map_err(|_| damaged())?))
        };
        records.iter().map(room).collect()
    }

    /// The ids greater than `after` that rooms have or had, in ascending order, at most `limit`, and what
    /// they map to.
    ///
    /// # Errors
    /// When a record is damaged.
    pub(super) fn named_rooms(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<NamedRoom>, StoreError> {
        let after = after.map(keys::room_by_name);
        let records = self.scan(&keys::rooms_by_name(), after.as_deref(), limit)?;
        let named = |(key, value): &(Vec<u8>, StoredValue)| {
            let room_id = keys::text(key).ok_or_else(|| StoreError::corrupt("room number", key))?;
            let number = FoundNum::of(key, Some(value))?;
            Ok(NamedRoom { room_id: room_id.to_owned(), number })
        };
        records.iter().map(named).collect()
    }

    /// The numbers of rooms greater than `after`, in ascending order, at most `limit`.
    pub fn room_nums(
        &self,
        after: Option<RoomNum>,
        limit: usize,
    ) -> Result<Vec<RoomNum>, StoreError> {
        let after = after.map(keys::room);
        let records = self.scan(&keys::rooms(), after.as_deref(), limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::room_of(key)).collect())
    }

    /// The record of a room; `None` if the store holds no such room.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn find_room(&self, room: RoomNum) -> Result<Option<Room>, StoreError> {
        self.read("room", &keys::room(room), Room::decode)
    }

    /// A number that stands for a room until the room is deleted; a room that is made again under the
    /// same id has another. All processes that share the store see the same.
    pub fn room_mark(&self, room: RoomNum) -> u64 {
        self.engine.room_mark(room)
    }

    /// Whether a room has a record, readable or not.
    pub fn has_room(&self, room: RoomNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::room(room))?.is_some())
    }

    /// The rooms in which work is left that a crash interrupted: the state of some event may be known
    /// now, or something is to be derived again.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn unsettled_rooms(&self) -> Result<Vec<Room>, StoreError> {
        let mut numbers = BTreeSet::new();
        let last = |room| [keys::unsettled(room, LAST_EVENT), keys::derive_again(room, LAST_EVENT)];
        for (index, prefix) in [keys::all_unsettled(), keys::all_deriving()].iter().enumerate() {
            let mut after = None;
            // One note per room is enough: the next scan begins after all notes of the room.
            while let Some((key, _)) = self.scan(prefix, after.as_deref(), 1)?.pop() {
                let number = keys::room_of(&key)
                    .ok_or_else(|| StoreError::corrupt("unsettled event", &key))?;
                numbers.insert(number);
                after = last(number).into_iter().nth(index);
            }
        }
        let rooms = numbers.into_iter().map(|it| self.find_room(it));
        rooms.filter_map(Result::transpose).collect()
    }
}
