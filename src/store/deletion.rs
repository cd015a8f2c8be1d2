//! Deleting a room. It is gone with one write, which takes its id away from its number; what it
//! left behind is then removed bit by bit, after a crash too.

use super::{
    RoomNum, Store, StoreError, View,
    codec::{seal, unseal},
    keys,
    view::number_or_gone,
};

/// Records removed in one batch.
const AT_ONCE: usize = 1_000;

impl Store {
    /// Deletes a room; its id stays taken, so that nothing of it comes back. On disk when this
    /// returns. Nothing if there is no such room.
    ///
    /// # Errors
    /// When the store fails.
    pub fn delete_room(&self, room_id: &str) -> Result<Option<DeletedRoom>, StoreError> {
        let _guard = self.room_locks.lock(room_id);
        let Some(number) = self.room_num(room_id)? else { return Ok(None) };
        let mut batch = sled::Batch::default();
        for key in [keys::room_by_name(room_id), keys::deleted_room(number)] {
            let value = seal(&key, Vec::new());
            batch.insert(key, value);
        }
        batch.remove(keys::room(number));
        let apply = || self.write(|tree| tree.apply_batch(batch));
        match self.removals(room_id) {
            Some(removals) => removals.of_rooms.during(apply)?,
            None => apply()?,
        }
        self.caches.forget_bodies(number);
        self.flush()?;
        Ok(Some(DeletedRoom(number)))
    }

    /// Lets a deleted room come back, as a room that was never here.
    ///
    /// # Errors
    /// When the store fails.
    pub fn forget_deleted_room(&self, room_id: &str) -> Result<bool, StoreError> {
        let _guard = self.room_locks.lock(room_id);
        let is_deleted = self.is_deleted(room_id)?;
        if is_deleted {
            self.write(|tree| tree.remove(keys::room_by_name(room_id)))?;
            self.flush()?;
        }
        Ok(is_deleted)
    }

    /// Sees to it that a room never comes. Nothing if it is held.
    ///
    /// # Errors
    /// When the store fails.
    pub fn bury_room(&self, room_id: &str) -> Result<(), StoreError> {
        let _guard = self.room_locks.lock(room_id);
        if self.room_num(room_id)?.is_none() {
            let key = keys::room_by_name(room_id);
            let value = seal(&key, Vec::new());
            self.write(|tree| tree.insert(key, value))?;
        }
        Ok(())
    }

    /// The ids of rooms that were deleted and stay away, behind `after` in their own order: those
    /// among so many rooms looked at, and where to go on, if there may be more.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn buried_rooms(
        &self,
        after: Option<&str>,
        looked_at: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let after = after.map(keys::room_by_name);
        let records = self.scan(&keys::rooms_by_name(), after.as_deref(), looked_at)?;
        let (mut found, mut last) = (Vec::new(), None);
        for (key, value) in &records {
            let damaged = || StoreError::corrupt("room number", key);
            let room_id = keys::text(key).ok_or_else(damaged)?;
            let number = unseal(key, value).and_then(number_or_gone).map_err(|_| damaged())?;
            if number.is_none() {
                found.push(room_id.to_owned());
            }
            last = Some(room_id.to_owned());
        }
        Ok((found, last.filter(|_| records.len() >= looked_at)))
    }

    /// The rooms that are deleted but have left something behind.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn deleted_rooms(&self) -> Result<Vec<DeletedRoom>, StoreError> {
        let records = self.scan(&keys::deleted_rooms(), None, usize::MAX)?;
        let rooms = records.iter().filter_map(|(key, _)| keys::room_of(key));
        Ok(rooms.map(DeletedRoom).collect())
    }

    /// Removes some of what a deleted room has left behind; says how many records, none when it is
    /// all gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn remove_deleted(&self, room: DeletedRoom) -> Result<usize, StoreError> {
        let DeletedRoom(number) = room;
        for prefix in keys::all_of_room(number) {
            let records = self.scan(&prefix, None, AT_ONCE)?;
            if records.is_empty() {
                continue;
            }
            let mut batch = sled::Batch::default();
            records.iter().for_each(|(key, _)| batch.remove(key.as_slice()));
            self.write(|tree| tree.apply_batch(batch))?;
            self.flush()?;
            return Ok(records.len());
        }
        self.write(|tree| tree.remove(keys::deleted_room(number)))?;
        self.flush()?;
        Ok(0)
    }
}

/// A room that is deleted, by the number that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedRoom(RoomNum);

impl DeletedRoom {
    pub(super) fn number(self) -> RoomNum {
        self.0
    }
}
