//! A map in memory that several stores share, for tests: each store is what a process is. Numbers of
//! rooms are numbers of the process. A room has another number when another process has replaced or
//! removed something in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Changes, Commit, Effect, Records, Seen, Set, StoredValue};
use crate::store::{
    StoreError,
    codec::{add_checksum, strip_checksum},
};

/// Tags of records that do not belong to a room.
const OF_THE_STORE: [u8; 10] = [0x00, 0x01, 0x0b, 0x0e, 0x11, 0x18, 0x19, 0x1b, 0x1c, 0x1d];
const ROOM_BY_NAME: u8 = 0x01;
/// Numbers that a process gives to rooms that it finds; rooms that it makes have smaller ones.
const FIRST_FOUND: u32 = 1_000;

/// What all processes share.
#[derive(Default)]
struct SharedRecords {
    records: BTreeMap<Vec<u8>, StoredValue>,
    rooms: BTreeMap<u32, SharedRoom>,
    /// The number of each room id that was ever used.
    names: BTreeMap<Vec<u8>, u32>,
    words: BTreeMap<Set, u64>,
    /// Every stamp, life and word is another number.
    next: u64,
}

#[derive(Clone, Copy, Default)]
struct SharedRoom {
    stamp: u64,
    life: u64,
    made: u64,
}

/// What one process knows.
#[derive(Default)]
struct OneProcess {
    /// The room behind a number of this process, and the life that it had.
    rooms: BTreeMap<u32, (u32, u64)>,
    words: BTreeMap<Set, u64>,
    changes: BTreeMap<Set, u64>,
}

/// The engine of one process.
pub(in crate::store) struct SharedMap {
    shared: Arc<Mutex<SharedRecords>>,
    own: Mutex<OneProcess>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_of(key: &[u8]) -> Option<Set> {
    let tag = *key.first()?;
    Set::ALL.into_iter().find(|it| it.tag() == tag)
}

fn number_in(key: &[u8]) -> Option<u32> {
    let tag = key.first()?;
    let number = key.get(1..5)?.try_into().ok()?;
    (!OF_THE_STORE.contains(tag)).then_some(u32::from_be_bytes(number))
}

fn with_number(key: &[u8], number: u32) -> Vec<u8> {
    [&key[..1], &number.to_be_bytes(), &key[5..]].concat()
}

/// The value under another key. A wrong checksum stays wrong.
fn sealed_again(value: &StoredValue, from: &[u8], to: &[u8]) -> StoredValue {
    match strip_checksum(from, value) {
        Ok(bytes) => add_checksum(to, bytes.to_vec()).into(),
        Err(_) => value.clone(),
    }
}

fn missing(key: &[u8]) -> StoreError {
    StoreError::missing("room", key)
}

impl SharedRecords {
    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl OneProcess {
    /// The number of a room that has this life now.
    fn number_of(&mut self, room: u32, life: u64) -> u32 {
        let known = self.rooms.iter().rfind(|(_, of)| **of == (room, life));
        if let Some((number, _)) = known {
            return *number;
        }
        let last = self.rooms.last_key_value().map_or(0, |(number, _)| number + 1);
        let number = last.max(FIRST_FOUND);
        self.rooms.insert(number, (room, life));
        number
    }

    fn learn(&mut self, shared: &SharedRecords) {
        for (set, word) in &shared.words {
            if self.words.insert(*set, *word) != Some(*word) {
                *self.changes.entry(*set).or_default() += 1;
            }
        }
    }
}

impl SharedMap {
    /// The engines of several processes over one empty map.
    pub(in crate::store) fn several(count: usize) -> Vec<Self> {
        let shared = Arc::new(Mutex::new(SharedRecords::default()));
        let engine = || Self { shared: Arc::clone(&shared), own: Mutex::default() };
        (0..count).map(|_| engine()).collect()
    }

    pub(super) fn foreign_changes(&self, set: Set) -> u64 {
        locked(&self.own).changes.get(&set).copied().unwrap_or_default()
    }

    pub(super) fn learn_sets(&self) {
        let shared = locked(&self.shared);
        locked(&self.own).learn(&shared);
    }

    pub(super) fn room_mark(&self, number: u32) -> u64 {
        let shared = locked(&self.shared);
        let room = locked(&self.own).rooms.get(&number).map(|(room, _)| *room);
        room.and_then(|it| shared.rooms.get(&it)).map_or(0, |it| it.made)
    }

    /// The key that all processes use. `None` if this process has given the number to a room that
    /// is not stored yet.
    fn shared_key(
        shared: &SharedRecords,
        own: &OneProcess,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(number) = number_in(key) else { return Ok(Some(key.to_vec())) };
        let Some((room, life)) = own.rooms.get(&number) else { return Ok(None) };
        let now = shared.rooms.get(room).map(|it| it.life);
        if now == Some(*life) { Ok(Some(with_number(key, *room))) } else { Err(missing(key)) }
    }

    /// The key and the value as this process has them.
    fn own_record(
        shared: &SharedRecords,
        own: &mut OneProcess,
        key: &[u8],
        value: &StoredValue,
    ) -> (Vec<u8>, StoredValue) {
        let life = |room: u32| shared.rooms.get(&room).map_or(0, |it| it.life);
        if let Some(room) = number_in(key) {
            let key_here = with_number(key, own.number_of(room, life(room)));
            let value = sealed_again(value, key, &key_here);
            return (key_here, value);
        }
        let number = strip_checksum(key, value).ok().and_then(|it| it.try_into().ok());
        match number.filter(|_| key.first() == Some(&ROOM_BY_NAME)) {
            Some(number) => {
                let room = u32::from_be_bytes(number);
                let number = own.number_of(room, life(room)).to_be_bytes().to_vec();
                (key.to_vec(), add_checksum(key, number).into())
            }
            None => (key.to_vec(), value.clone()),
        }
    }

    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        let shared = locked(&self.shared);
        let mut own = locked(&self.own);
        if key.first() == Some(&ROOM_BY_NAME) {
            own.learn(&shared);
        }
        let Some(stored) = Self::shared_key(&shared, &own, key)? else { return Ok(None) };
        let Some(value) = shared.records.get(&stored) else { return Ok(None) };
        if number_in(key).is_some() {
            return Ok(Some(sealed_again(value, &stored, key)));
        }
        Ok(Some(Self::own_record(&shared, &mut own, &stored, value).1))
    }

    pub(super) fn see(&self, key: Vec<u8>) -> Result<Seen, StoreError> {
        let value = self.read(&key)?;
        let shared = locked(&self.shared);
        let room = match number_in(&key) {
            Some(number) => locked(&self.own).rooms.get(&number).map(|(room, _)| *room),
            None => shared.names.get(&key).copied(),
        };
        let stamp = room.and_then(|it| shared.rooms.get(&it)).map(|it| it.stamp.cast_signed());
        Ok(Seen { key, value, stamp })
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let shared = locked(&self.shared);
        let mut own = locked(&self.own);
        let Some(stored_prefix) = Self::shared_key(&shared, &own, prefix)? else {
            return Ok(Records::new());
        };
        let after = after.map(|it| {
            let room = number_in(it).and_then(|number| own.rooms.get(&number));
            room.map_or_else(|| it.to_vec(), |(room, _)| with_number(it, *room))
        });
        let from = after.map_or(Bound::Included(stored_prefix.clone()), Bound::Excluded);
        let found = shared.records.range((from, Bound::Unbounded));
        let found = found.take_while(|(key, _)| key.starts_with(&stored_prefix)).take(limit);
        let mut records = Records::new();
        for (key, value) in found {
            records.push(Self::own_record(&shared, &mut own, key, value));
        }
        Ok(records)
    }

    /// Whether what a decision has seen is still so.
    fn is_unchanged(shared: &SharedRecords, own: &OneProcess, seen: &Seen) -> bool {
        let Seen { key, value, stamp } = seen;
        let room = match number_in(key) {
            Some(number) => own.rooms.get(&number).map(|(room, _)| *room),
            None if key.first() == Some(&ROOM_BY_NAME) => shared.names.get(key).copied(),
            None => return shared.records.get(key) == value.as_ref(),
        };
        match room.and_then(|it| shared.rooms.get(&it)) {
            Some(room) if stamp.is_some() => *stamp == Some(room.stamp.cast_signed()),
            Some(_) | None => value.is_none() && !shared.records.contains_key(key),
        }
    }

    pub(super) fn commit(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
        effect: Effect,
    ) -> Result<Commit, StoreError> {
        let mut shared = locked(&self.shared);
        let mut own = locked(&self.own);
        if seen.is_some_and(|it| !Self::is_unchanged(&shared, &own, it)) {
            return Ok(Commit::Conflict);
        }
        let mut touched = BTreeSet::new();
        for (key, value) in &changes {
            if key.first() == Some(&ROOM_BY_NAME) {
                let room = Self::name(&mut shared, &mut own, key, value.as_ref());
                touched.insert(room);
            }
        }
        for (key, value) in changes {
            if let Some(set) = set_of(&key) {
                let word = shared.draw();
                shared.words.insert(set, word);
            }
            let stored = match number_in(&key) {
                None => key.clone(),
                Some(number) => {
                    let (room, _) = *own.rooms.get(&number).ok_or_else(|| missing(&key))?;
                    touched.insert(room);
                    with_number(&key, room)
                }
            };
            match value {
                // The number of a room is written by `name`.
                Some(_) if key.first() == Some(&ROOM_BY_NAME) => {}
                Some(value) => {
                    let value = sealed_again(&value, &key, &stored);
                    shared.records.insert(stored, value);
                }
                None => drop(shared.records.remove(&stored)),
            }
        }
        for room in touched {
            let (stamp, life) = (shared.draw(), shared.draw());
            let row = shared.rooms.entry(room).or_default();
            row.stamp = stamp;
            if effect == Effect::Replaces {
                for of in own.rooms.values_mut().filter(|of| **of == (room, row.life)) {
                    of.1 = life;
                }
                row.life = life;
            }
        }
        Ok(Commit::Done)
    }

    /// Writes what a room id maps to. Returns the room.
    fn name(
        shared: &mut SharedRecords,
        own: &mut OneProcess,
        key: &[u8],
        value: Option<&StoredValue>,
    ) -> u32 {
        let next = u32::try_from(shared.names.len()).expect("tests make few rooms");
        let room = *shared.names.entry(key.to_vec()).or_insert(next);
        let number = value.and_then(|it| strip_checksum(key, it).ok());
        if let Some(number) = number.and_then(|it| it.try_into().ok()).map(u32::from_be_bytes) {
            let (life, made) = (shared.draw(), shared.draw());
            shared.rooms.insert(room, SharedRoom { stamp: 0, life, made });
            own.rooms.insert(number, (room, life));
            let value = add_checksum(key, room.to_be_bytes().to_vec());
            shared.records.insert(key.to_vec(), value.into());
        } else if let Some(gone) = value {
            shared.records.insert(key.to_vec(), gone.clone());
        }
        room
    }

    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.scan(prefix, None, usize::MAX)?.pop().map(|(key, _)| key))
    }
}
