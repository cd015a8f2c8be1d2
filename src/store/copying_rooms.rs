//! Copies a store room by room, between stores that number their rooms in different ways.

use std::{
    num::NonZero,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    DeletedRoom, FoundNum, RoomNum, Store, StoreError, View as _,
    codec::{add_checksum, sealed_again},
    copying::{Pairs, RecordWalk, copy_records},
    engine::{Changes, Commit, Effect},
    keys,
    rooms::NamedRoom,
};
use crate::sync::lock;

/// Rooms that are copied at the same time.
const AT_ONCE: usize = 8;
/// Rooms that are listed at a time.
const LISTED: usize = 1_000;

impl Store {
    /// Makes another store the same as this one. A room may have another number there.
    pub(super) fn copy_by_room(
        &self,
        to: &Self,
        copied: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        for prefix in keys::of_store() {
            let from = RecordWalk::over(self, prefix.clone());
            copy_records(Pairs { from, to: RecordWalk::over(to, prefix) }, copied)?;
        }
        // It names a room by its number; without it the search begins anew.
        to.engine.put([(keys::redacted_search(), None)].into())?;
        let mut after = None;
        loop {
            let rooms = self.named_rooms(after.as_deref(), LISTED)?;
            let Some(last) = rooms.last() else { break };
            after = Some(last.room_id.clone());
            at_once(&rooms, |room| self.copy_room(room, to, copied))?;
        }
        self.remove_others(to)
    }

    fn copy_room(
        &self,
        room: &NamedRoom,
        to: &Self,
        copied: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let NamedRoom { room_id, number } = room;
        let FoundNum::Held(number) = *number else { return to.make_deleted(room_id) };
        let (there, is_new) = match to.find_room_num(room_id)? {
            FoundNum::Held(there) => (there, false),
            FoundNum::Deleted => {
                to.make_vacant(room_id)?;
                (self.copy_record_of_room(room, number, to)?, true)
            }
            FoundNum::None => (self.copy_record_of_room(room, number, to)?, true),
        };
        let prefixes = keys::all_of_room(number).zip(keys::all_of_room(there));
        let of_room = (keys::room(number), keys::room(there));
        for (prefix, prefix_there) in std::iter::once(of_room).chain(prefixes) {
            let from = RecordWalk::over(self, prefix);
            let to_walk = if is_new && !keys::is_room(&prefix_there) {
                RecordWalk::over_none(to, prefix_there)
            } else {
                RecordWalk::over(to, prefix_there)
            };
            copy_records(Pairs { from, to: to_walk }, copied)?;
        }
        Ok(())
    }

    /// Makes a room in another store, with the record that it has here. Returns its number there.
    fn copy_record_of_room(
        &self,
        room: &NamedRoom,
        number: RoomNum,
        to: &Self,
    ) -> Result<RoomNum, StoreError> {
        let key = keys::room(number);
        let value = self.value(&key)?.ok_or_else(|| StoreError::missing("room", &key))?;
        let seen = to.engine.see(keys::room_by_name(&room.room_id))?;
        let there = to.next_number(&room.room_id)?;
        let by_name = add_checksum(&seen.key, there.0.to_be_bytes().to_vec());
        let key_there = keys::room(there);
        let value = sealed_again(&key, &key_there, &value);
        let changes: Changes =
            [(seen.key.clone(), Some(by_name.into())), (key_there, Some(value.into()))].into();
        match to.engine.commit(Some(&seen), changes, Effect::Adds)? {
            Commit::Done => Ok(there),
            Commit::Conflict => Err(StoreError::Conflict { room_id: room.room_id.clone() }),
        }
    }

    /// Makes a room one that was deleted and may not return.
    fn make_deleted(&self, room_id: &str) -> Result<(), StoreError> {
        match self.delete_room(room_id)? {
            Some(deleted) => self.remove_all_of(deleted),
            None => self.bury_room(room_id),
        }
    }

    /// Makes a room one that is not held and may be made.
    fn make_vacant(&self, room_id: &str) -> Result<(), StoreError> {
        if let Some(deleted) = self.delete_room(room_id)? {
            self.remove_all_of(deleted)?;
        }
        self.forget_deleted_room(room_id).map(drop)
    }

    fn remove_all_of(&self, deleted: DeletedRoom) -> Result<(), StoreError> {
        while self.remove_deleted(deleted)? > 0 {}
        Ok(())
    }

    /// Removes the rooms of another store that this one does not know: an interrupted copy has left them.
    fn remove_others(&self, to: &Self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let rooms = to.named_rooms(after.as_deref(), LISTED)?;
            let Some(last) = rooms.last() else { return Ok(()) };
            after = Some(last.room_id.clone());
            for room in &rooms {
                if self.find_room_num(&room.room_id)? == FoundNum::None {
                    to.make_vacant(&room.room_id)?;
                }
            }
        }
    }
}

/// Does something with each room, several at the same time. After the first failure no other room is
/// begun.
fn at_once(
    rooms: &[NamedRoom],
    work: impl Fn(&NamedRoom) -> Result<(), StoreError> + Sync,
) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let threads = AT_ONCE.min(2 * thread::available_parallelism().map_or(1, NonZero::get));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(room) = rooms.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = work(room) {
                        lock(&failed).get_or_insert(failure);
                        next.store(rooms.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_default().map_or(Ok(()), Err)
}
