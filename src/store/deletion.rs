//! Deletes rooms. One commit makes a room disappear: it separates the room's id from its number. The
//! records of the room are removed afterwards, in steps; after a crash the removal is continued.

use super::{
    Decision, FoundNum, RoomNum, Store, StoreError, View,
    codec::add_checksum,
    decide::retried,
    engine::{Commit, Effect, StoredValue},
    keys,
};

/// Records removed in one batch.
const REMOVED_AT_ONCE: usize = 1_000;

/// A page of room ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomIds {
    /// The ids, in ascending order.
    pub room_ids: Vec<String>,
    /// The id after which the next page starts; `None` if this page is the last.
    pub next: Option<String>,
}

impl Store {
    /// Deletes a room. Its id stays taken, so that no event of it is accepted again. On disk when
    /// this returns. Returns `None` if the store holds no such room.
    pub fn delete_room(&self, room_id: &str) -> Result<Option<DeletedRoom>, StoreError> {
        let deleted = self.decide(room_id, None, |edit| {
            edit.delete_room();
            Ok::<_, StoreError>(Decision::Commit(DeletedRoom(edit.room_num())))
        })?;
        if deleted.is_some() {
            self.flush()?;
        }
        Ok(deleted)
    }

    /// Lets a deleted room return, as a room without history. Returns whether it was deleted.
    pub fn forget_deleted_room(&self, room_id: &str) -> Result<bool, StoreError> {
        let _guard = self.room_locks.lock(room_id);
        // In a shared store, a room that is made again has its records where the deleted one had them.
        if let Some(deleted) = self.engine.deleted_in_place(room_id)? {
            while self.remove_deleted(DeletedRoom(deleted))? > 0 {}
        }
        let forgotten = retried(room_id, || {
            let seen = self.engine.see(keys::room_by_name(room_id))?;
            if !self.is_deleted(room_id)? {
                return Ok::<_, StoreError>(Some(false));
            }
            let changes = [(seen.key.clone(), None)].into();
            let commit = self.engine.commit(Some(&seen), changes, Effect::Replaces)?;
            Ok((commit == Commit::Done).then_some(true))
        })?;
        if forgotten {
            self.flush()?;
        }
        Ok(forgotten)
    }

    /// Makes the store refuse a room as if it had been deleted. A room that the store holds is left
    /// as it is.
    pub fn bury_room(&self, room_id: &str) -> Result<(), StoreError> {
        let _guard = self.room_locks.lock(room_id);
        retried(room_id, || {
            let seen = self.engine.see(keys::room_by_name(room_id))?;
            if seen.value.is_some() {
                return Ok(Some(()));
            }
            let empty = add_checksum(&seen.key, Vec::new());
            let changes = [(seen.key.clone(), Some(empty.into()))].into();
            let commit = self.engine.commit(Some(&seen), changes, Effect::Adds)?;
            Ok((commit == Commit::Done).then_some(()))
        })
    }

    /// The ids of rooms that were deleted and may not return, those greater than `after`. Looks at
    /// `looked_at` rooms at most, deleted or not.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn buried_rooms(
        &self,
        after: Option<&str>,
        looked_at: usize,
    ) -> Result<RoomIds, StoreError> {
        let rooms = self.named_rooms(after, looked_at)?;
        let is_last = rooms.len() < looked_at;
        let next = rooms.last().filter(|_| !is_last).map(|it| it.room_id.clone());
        let buried = rooms.into_iter().filter(|it| it.number == FoundNum::Deleted);
        Ok(RoomIds { room_ids: buried.map(|it| it.room_id).collect(), next })
    }

    /// The deleted rooms whose records are not all removed.
    pub fn deleted_rooms(&self) -> Result<Vec<DeletedRoom>, StoreError> {
        let records = self.scan(&keys::deleted_rooms(), None, usize::MAX)?;
        let rooms = records.iter().filter_map(|(key, _)| keys::room_of(key));
        Ok(rooms.map(DeletedRoom).collect())
    }

    /// Removes some records of a deleted room. Returns how many; 0 when all are removed, or when the
    /// room was made again.
    pub fn remove_deleted(&self, room: DeletedRoom) -> Result<usize, StoreError> {
        retried("a deleted room", || {
            let Some(number) = self.engine.number_now(room.0)? else { return Ok(Some(0)) };
            match self.remove_some(number) {
                // Another process removes records of the room, too.
                Err(StoreError::Missing { .. }) if self.engine.is_shared() => Ok(None),
                removed => removed.map(Some),
            }
        })
    }

    fn remove_some(&self, number: RoomNum) -> Result<usize, StoreError> {
        for prefix in keys::all_of_room(number) {
            let records = self.scan(&prefix, None, REMOVED_AT_ONCE)?;
            if records.is_empty() {
                continue;
            }
            let removed = records.len();
            let remove = |(key, _): (Vec<u8>, StoredValue)| (key, None);
            self.engine.put(records.into_iter().map(remove).collect())?;
            self.flush()?;
            return Ok(removed);
        }
        self.engine.put([(keys::deleted_room(number), None)].into())?;
        self.flush()?;
        Ok(0)
    }
}

/// A deleted room, by the number that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedRoom(RoomNum);

impl DeletedRoom {
    /// The number that the room had.
    pub(super) fn number(self) -> RoomNum {
        self.0
    }
}
