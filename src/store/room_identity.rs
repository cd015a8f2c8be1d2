//! A room over a longer time: work that reads a whole room, or that changes it in many decisions. The
//! room's number may change meanwhile, because another process changed the room; the room may also
//! have been deleted, and made again.

use super::{Edit, RoomNum, Store, StoreError, View as _, keys};

/// How often a whole room is read before [`StoreError::Conflict`] is returned.
const MAX_READINGS: u32 = 16;

/// A room, but not one that is made again under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomIdentity {
    room_id: String,
    mark: u64,
}

/// A number that every change of a room replaces, in a store that several processes share. `None` in
/// other stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomStamp(Option<i64>);

impl RoomIdentity {
    /// The id of the room.
    #[must_use]
    pub fn room_id(&self) -> &str {
        &self.room_id
    }
}

impl Store {
    /// The room that has this id now; `None` if the store holds none.
    ///
    /// # Errors
    /// When the store fails.
    pub fn room_identity(&self, room_id: &str) -> Result<Option<RoomIdentity>, StoreError> {
        let number = self.room_num(room_id)?;
        Ok(number.map(|it| RoomIdentity { room_id: room_id.to_owned(), mark: self.room_mark(it) }))
    }

    /// The number that a room has now; `None` if it was deleted.
    ///
    /// # Errors
    /// When the store fails.
    pub fn num_of(&self, room: &RoomIdentity) -> Result<Option<RoomNum>, StoreError> {
        let number = self.room_num(&room.room_id)?;
        Ok(number.filter(|it| self.room_mark(*it) == room.mark))
    }

    /// Reads much of a room, without a lock. It is read again if another process changed the room so
    /// that a record was missing. Returns `None` if the room was deleted.
    ///
    /// # Errors
    /// The error of `read`. [`StoreError::Conflict`] if the room changed at every try.
    pub fn read_whole<T>(
        &self,
        room: &RoomIdentity,
        mut read: impl FnMut(RoomNum) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut stamp = None;
        for _ in 0..MAX_READINGS {
            let number = self.room_num(&room.room_id)?;
            let number = number.filter(|it| self.room_mark(*it) == room.mark);
            let Some(number) = number else { return Ok(None) };
            match read(number) {
                Err(StoreError::Missing { .. })
                    if self.may_have_changed(&room.room_id, &mut stamp)?
                        || self.num_of(room)? != Some(number) => {}
                done => return done.map(Some),
            }
        }
        Err(StoreError::Conflict { room_id: room.room_id.clone() })
    }

    /// The stamp of a room.
    ///
    /// # Errors
    /// When the store fails.
    pub fn room_stamp(&self, room_id: &str) -> Result<RoomStamp, StoreError> {
        if !self.is_shared() {
            return Ok(RoomStamp(None));
        }
        Ok(RoomStamp(self.engine.see(keys::room_by_name(room_id))?.stamp))
    }

    /// Whether another process may have changed a room since `last` was read, or at any time if it is
    /// `None`. Puts the present stamp there.
    ///
    /// # Errors
    /// When the store fails.
    pub fn may_have_changed(
        &self,
        room_id: &str,
        last: &mut Option<RoomStamp>,
    ) -> Result<bool, StoreError> {
        if !self.is_shared() {
            return Ok(false);
        }
        let now = self.room_stamp(room_id)?;
        Ok(last.replace(now) != Some(now))
    }
}

impl Edit<'_> {
    /// Whether the edit is about this room.
    #[must_use]
    pub fn is_of(&self, room: &RoomIdentity) -> bool {
        self.room.room_id == room.room_id && self.store.room_mark(self.number) == room.mark
    }

    /// The stamp of the room when the edit began.
    #[must_use]
    pub fn stamp(&self) -> RoomStamp {
        RoomStamp(self.seen().stamp)
    }
}
