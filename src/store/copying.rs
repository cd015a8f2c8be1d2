//! Copies a whole store, record by record. The copy has none of the bytes that the files of the
//! original still contain of records that were replaced or removed.
//!
//! While a store is being copied into, a note in it says so, and it is opened by nothing else. A copy
//! that was interrupted is continued by comparing it with the original from the start: records that
//! are the same are left, all others are written or removed. So it does not matter where it was
//! interrupted, nor whether the original has changed since.

use std::collections::VecDeque;

use super::{
    Options, Store, StoreError, StoredValue, View,
    codec::{add_checksum, sealed_again},
    engine::{Changes, Records},
    keys,
};
use crate::num;

/// Records in one batch.
const RECORDS_PER_BATCH: usize = 256;
/// Batches between two flushes.
const BATCHES_PER_FLUSH: usize = 64;

/// A record: its key and its value.
type Record = (Vec<u8>, StoredValue);

impl Store {
    /// Opens a store in order to copy into it: a new one, or one that an interrupted copy left.
    ///
    /// # Errors
    /// As [`Store::open`]; and if the store holds something else.
    pub fn open_copy(options: &Options) -> Result<Self, StoreError> {
        let store = Self::open_any(options)?;
        if !store.is_being_copied()? && store.holds_anything()? {
            return Err(StoreError::NotEmpty(options.place.clone()));
        }
        Ok(store)
    }

    /// Whether a copy into this store was begun and has not ended.
    pub(super) fn is_being_copied(&self) -> Result<bool, StoreError> {
        Ok(self.value(&keys::being_copied())?.is_some())
    }

    /// Whether the store has a record that a new store does not have.
    fn holds_anything(&self) -> Result<bool, StoreError> {
        let of_engine = [keys::format(), keys::mark()];
        let first = self.scan(&[], None, of_engine.len() + 1)?;
        Ok(first.iter().any(|(key, _)| !of_engine.contains(key)))
    }

    /// Makes another store, which was opened by [`open_copy`](Self::open_copy), the same as this one.
    /// `copied` is called with the number of records that were looked at since the last call.
    /// Everything is on disk when this returns.
    ///
    /// # Errors
    /// When a record cannot be read or written.
    pub fn copy_into(&self, to: &Self, copied: &(dyn Fn(u64) + Sync)) -> Result<(), StoreError> {
        let note = keys::being_copied();
        let value = add_checksum(&note, Vec::new());
        to.engine.put([(note.clone(), Some(value.into()))].into())?;
        to.flush()?;
        if self.engine.is_shared() || to.engine.is_shared() {
            self.copy_by_room(to, copied)?;
            to.engine.after_many_writes()?;
        } else {
            let of = |store| RecordWalk::over(store, Vec::new());
            copy_records(Pairs { from: of(self), to: of(to) }, copied)?;
        }
        // Everything must be on disk before the note is gone.
        to.flush()?;
        to.engine.put([(note, None)].into())?;
        to.flush()
    }
}

/// Makes the records of the second walk the same as those of the first.
pub(super) fn copy_records(
    mut pairs: Pairs<'_>,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<(), StoreError> {
    let to = pairs.to.store;
    for batch in 1_usize.. {
        let mut changes = Changes::new();
        let mut looked_at = 0;
        while looked_at < RECORDS_PER_BATCH
            && let Some(pair) = pairs.next()?
        {
            looked_at += 1;
            if pair.from != pair.to {
                changes.insert(pair.key, pair.from);
            }
        }
        if looked_at == 0 {
            break;
        }
        if !changes.is_empty() {
            to.engine.put(changes)?;
        }
        if batch % BATCHES_PER_FLUSH == 0 {
            to.flush()?;
        }
        copied(num::u64(looked_at));
    }
    Ok(())
}

/// The records of two stores, side by side, in the order of their keys.
pub(super) struct Pairs<'s> {
    pub(super) from: RecordWalk<'s>,
    pub(super) to: RecordWalk<'s>,
}

/// The values of a record in two stores; at least one of them has it.
struct Pair {
    /// The key in the second store.
    key: Vec<u8>,
    /// The value in the first store, with the checksum for `key`.
    from: Option<StoredValue>,
    to: Option<StoredValue>,
}

impl Pairs<'_> {
    fn next(&mut self) -> Result<Option<Pair>, StoreError> {
        let rests = [self.from.peek()?, self.to.peek()?];
        let Some(rest) = rests.into_iter().flatten().min().map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        let [key_before, key] = [&self.from, &self.to].map(|it| [&*it.prefix, &rest].concat());
        let mut from = self.from.take(&rest)?;
        if key_before != key {
            from = from.map(|it| sealed_again(&key_before, &key, &it).into());
        }
        let to = self.to.take(&rest)?;
        Ok(Some(Pair { key, from, to }))
    }
}

/// The records of a store that are copied and whose keys begin with a prefix, in the order of their
/// keys.
pub(super) struct RecordWalk<'s> {
    store: &'s Store,
    prefix: Vec<u8>,
    read: VecDeque<Record>,
    after: Option<Vec<u8>>,
    is_at_end: bool,
}

impl<'s> RecordWalk<'s> {
    pub(super) fn over(store: &'s Store, prefix: Vec<u8>) -> Self {
        Self { store, prefix, read: VecDeque::new(), after: None, is_at_end: false }
    }

    /// A walk over no records, in the place of those with a prefix.
    pub(super) fn over_none(store: &'s Store, prefix: Vec<u8>) -> Self {
        Self { is_at_end: true, ..Self::over(store, prefix) }
    }

    /// What follows the prefix in the key of the next record; `None` after the last one.
    fn peek(&mut self) -> Result<Option<&[u8]>, StoreError> {
        while self.read.is_empty() && !self.is_at_end {
            let records: Records =
                self.store.scan(&self.prefix, self.after.as_deref(), RECORDS_PER_BATCH)?;
            match records.last() {
                Some((last, _)) => self.after = Some(last.clone()),
                None => self.is_at_end = true,
            }
            // Each store counts its own flushes, and processes have its leases.
            let own = [keys::mark(), keys::being_copied()];
            let is_copied = |key: &Vec<u8>| !own.contains(key) && !keys::is_lease(key);
            self.read.extend(records.into_iter().filter(|(key, _)| is_copied(key)));
        }
        Ok(self.read.front().and_then(|(key, _)| key.get(self.prefix.len()..)))
    }

    /// The value of the next record, if this follows the prefix in its key. Then the record after it is
    /// the next.
    fn take(&mut self, rest: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        if self.peek()? != Some(rest) {
            return Ok(None);
        }
        Ok(self.read.pop_front().map(|(_, value)| value))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::store::{Decision, Place};

    /// A store with some rooms, each with some events.
    fn filled(options: &Options, rooms: &[u8]) -> Store {
        let store = Store::open(options).unwrap();
        for (number, events) in rooms.iter().enumerate() {
            let filled = store.decide(&format!("!{number}:b"), Some("10"), |edit| {
                for event in 0..*events {
                    let event_id = format!("${event}");
                    let added = edit.add_event(&event_id);
                    edit.put_body(added, &event_id, &[event]);
                }
                Ok::<_, StoreError>(Decision::Commit(()))
            });
            filled.unwrap();
        }
        store
    }

    fn copied_records(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = store.records();
        records.retain(|(key, _)| *key != keys::mark());
        records
    }

    /// An error that interrupts a copy: the copy is dropped as it is.
    fn copy_some(from: &Store, to: &Store, batches: usize) {
        let calls = AtomicUsize::new(0);
        let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            from.copy_into(to, &|_| {
                let calls = calls.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(calls < batches, "interrupted on purpose");
            })
        }));
        assert!(interrupted.is_err() || calls.into_inner() < batches);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn a_copy_is_the_same_in_each_engine_and_goes_on_after_an_interruption(
            rooms in prop::collection::vec(0u8..40, 0..12),
            more in prop::collection::vec(0u8..40, 0..12),
            batches in 1usize..6,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let at = |place: Place| Options::of(place, 16 << 20);
            let from = at(Place::Sled(dir.path().join("from")));
            let there = at(Place::Fjall(dir.path().join("there")));
            let back = at(Place::Sled(dir.path().join("back")));
            let mut source = filled(&from, &rooms);
            let copy = Store::open_copy(&there).unwrap();
            copy_some(&source, &copy, batches);
            let is_interrupted = copy.is_being_copied().unwrap();
            drop(copy);
            if is_interrupted {
                let refused = Store::open(&there).err();
                prop_assert!(matches!(refused, Some(StoreError::BeingCopied(_))));
                // The source changes before the copy goes on.
                drop(source);
                source = filled(&from, &more);
                let copy = Store::open_copy(&there).unwrap();
                source.copy_into(&copy, &|_| {}).unwrap();
            }
            let copy = Store::open(&there).unwrap();
            prop_assert_eq!(copied_records(&copy), copied_records(&source));
            let again = Store::open_copy(&back).unwrap();
            copy.copy_into(&again, &|_| {}).unwrap();
            prop_assert_eq!(copied_records(&again), copied_records(&source));
        }
    }

    #[test]
    fn a_store_that_holds_something_is_not_copied_into() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        drop(filled(&options, &[1]));
        assert!(matches!(Store::open_copy(&options).err(), Some(StoreError::NotEmpty(_))));
    }
}
