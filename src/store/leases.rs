//! Leases: work that only one process does at a time, in a store that several processes share. A lease
//! is one record, which is changed only on the condition that it is still as it was read.
//!
//! # Time
//! No two clocks are compared. Who wants a lease that another process has, watches its record: the
//! holder changes the record before its time is over, so a record that stays as it is for that time,
//! by the clock of the watcher, belongs to nobody any more.
//!
//! # What a lease promises
//! A holder that stalls for longer than its time may go on without knowing that another process has the
//! lease. So a lease saves work, and keeps plans from being made twice; what must never happen twice is
//! kept by the conditions of commits.
//!
//! In a store of one process a lease is only kept in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Store, StoreError,
    codec::{Decoder, Encoder, Malformed, add_checksum, strip_checksum},
    engine::{Changes, Commit, Effect, Seen, StoredValue},
    keys,
};
use crate::sync::lock;

/// Purges of two rooms wait for each other if the ids of the rooms have the same hash of this many.
const PURGES: u8 = 64;
/// The time of most leases.
const LEASE_TIME: Duration = Duration::from_secs(60);

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leased<'a> {
    /// Finishing what was interrupted.
    Recovery,
    /// Removing the content of redacted events.
    ContentRemoval,
    /// Measuring the whole store.
    Measurement,
    /// Feeding the store.
    Feeder,
    /// Purging the room with this id, or removing events from it.
    Purge(&'a str),
    /// Repairing the store.
    Repair,
}

impl Leased<'_> {
    /// The key of the record.
    fn key(self) -> Vec<u8> {
        match self {
            Self::Recovery => keys::lease("recovery"),
            Self::ContentRemoval => keys::lease("content"),
            Self::Measurement => keys::lease("measurement"),
            Self::Feeder => keys::lease("feeder"),
            Self::Purge(room_id) => {
                let hash = |sum: u8, byte: u8| sum.wrapping_mul(31).wrapping_add(byte);
                keys::lease(&format!("purge {}", room_id.bytes().fold(0, hash) % PURGES))
            }
            Self::Repair => keys::repair(),
        }
    }
}

/// The leases, as this process knows them.
#[derive(Default)]
pub(super) struct Leases {
    /// Leases of other processes: their records, and since when they are so.
    observed: Mutex<BTreeMap<Vec<u8>, ObservedLease>>,
    /// The leases that are held in a store of one process.
    held: Mutex<BTreeSet<Vec<u8>>>,
}

struct ObservedLease {
    value: StoredValue,
    since: Instant,
}

/// A lease that this process holds until it is given up, or until its time is over.
#[derive(Debug)]
pub struct HeldLease {
    key: Vec<u8>,
    time: Duration,
    /// `None` in a store of one process.
    record: Option<LeaseRecord>,
    /// When the record was changed last.
    prolonged_at: Instant,
}

/// The record of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeaseRecord {
    /// A random number that stands for the holder. 0: no process has the lease.
    owner: u64,
    /// Another one after each change.
    count: u64,
    /// How long the holder may leave the record as it is, in milliseconds.
    time_ms: u64,
}

impl HeldLease {
    /// When its time is over, unless it is prolonged.
    #[must_use]
    pub fn ends_at(&self) -> Instant {
        self.prolonged_at + self.time
    }
}

impl LeaseRecord {
    fn encode(self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.number(self.owner);
        out.number(self.count);
        out.number(self.time_ms);
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(bytes);
        let record = Self { owner: from.number()?, count: from.number()?, time_ms: from.number()? };
        from.end()?;
        Ok(record)
    }

    fn value(self, key: &[u8]) -> StoredValue {
        add_checksum(key, self.encode()).into()
    }
}

impl Store {
    /// Takes a lease, if no process has it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn try_lease(&self, leased: Leased<'_>) -> Result<Option<HeldLease>, StoreError> {
        self.try_lease_for(leased, LEASE_TIME)
    }

    /// Takes a lease that ends unless it is prolonged within `time`, if no process has it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn try_lease_for(
        &self,
        leased: Leased<'_>,
        time: Duration,
    ) -> Result<Option<HeldLease>, StoreError> {
        let key = leased.key();
        let prolonged_at = Instant::now();
        if !self.is_shared() {
            let is_new = lock(&self.leases.held).insert(key.clone());
            return Ok(is_new.then_some(HeldLease { key, time, record: None, prolonged_at }));
        }
        let seen = self.engine.see(key.clone())?;
        let held = match &seen.value {
            None => LeaseRecord { owner: 0, count: 0, time_ms: 0 },
            Some(value) => strip_checksum(&seen.key, value)
                .and_then(LeaseRecord::decode)
                .map_err(|_| StoreError::corrupt("lease", &seen.key))?,
        };
        if held.owner != 0 && !self.is_over(&key, held, seen.value.as_ref()) {
            return Ok(None);
        }
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let owner = rand::random::<u64>().max(1);
        let record = LeaseRecord { owner, count: held.count.wrapping_add(1), time_ms };
        let is_taken = self.change_lease(&seen, record)?;
        Ok(is_taken.then_some(HeldLease { key, time, record: Some(record), prolonged_at }))
    }

    /// Whether the record of a lease says that a process has it.
    pub(super) fn is_lease_held(key: &[u8], value: &StoredValue) -> bool {
        let record = strip_checksum(key, value).and_then(LeaseRecord::decode);
        record.map_or(true, |it| it.owner != 0)
    }

    /// Whether another process has left the record of its lease as it is for the time of the lease.
    fn is_over(&self, key: &[u8], held: LeaseRecord, value: Option<&StoredValue>) -> bool {
        let Some(value) = value else { return true };
        let now = Instant::now();
        let mut observed = lock(&self.leases.observed);
        match observed.get(key) {
            Some(it) if it.value == *value => {
                let left_for = now.saturating_duration_since(it.since);
                left_for >= Duration::from_millis(held.time_ms)
            }
            Some(_) | None => {
                let value = value.clone();
                observed.insert(key.to_owned(), ObservedLease { value, since: now });
                false
            }
        }
    }

    /// Changes the record of a lease, if it is still as it was seen.
    fn change_lease(&self, seen: &Seen, record: LeaseRecord) -> Result<bool, StoreError> {
        let changes: Changes = [(seen.key.clone(), Some(record.value(&seen.key)))].into();
        let commit = self.engine.commit(Some(seen), changes, Effect::Adds)?;
        Ok(commit == Commit::Done)
    }

    /// Prolongs a lease when a third of its time has passed. Returns whether this process still has it,
    /// and had it all the time.
    ///
    /// # Errors
    /// When the store fails.
    pub fn prolong(&self, lease: &mut HeldLease) -> Result<bool, StoreError> {
        let now = Instant::now();
        let is_due = now.saturating_duration_since(lease.prolonged_at) >= lease.time / 3;
        let Some(record) = lease.record.filter(|_| is_due) else { return Ok(true) };
        let key = lease.key.clone();
        let seen = Seen { value: Some(record.value(&key)), key, stamp: None };
        let record = LeaseRecord { count: record.count.wrapping_add(1), ..record };
        let is_held = self.change_lease(&seen, record)?;
        if is_held {
            lease.record = Some(record);
            lease.prolonged_at = now;
        }
        Ok(is_held)
    }

    /// Gives a lease up. If the store fails, the lease ends when its time is over.
    pub fn release(&self, lease: &HeldLease) {
        let Some(record) = lease.record else {
            lock(&self.leases.held).remove(&lease.key);
            return;
        };
        let key = lease.key.clone();
        let seen = Seen { value: Some(record.value(&key)), key, stamp: None };
        let count = record.count.wrapping_add(1);
        // No process waits for it: the lease ends by itself.
        drop(self.change_lease(&seen, LeaseRecord { owner: 0, count, time_ms: 0 }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    fn pair() -> [Store; 2] {
        Store::sharing(2).try_into().ok().expect("two were asked for")
    }

    /// Takes a lease as soon as no process has it.
    fn wait_for(store: &Store, time: Duration) -> HeldLease {
        let bound = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(lease) = store.try_lease_for(Leased::Recovery, time).unwrap() {
                return lease;
            }
            assert!(Instant::now() < bound, "the lease does not end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_lease_is_held_by_one_process_until_it_is_given_up() {
        let [one, other] = pair();
        let lease = one.try_lease(Leased::Recovery).unwrap().unwrap();
        assert!(other.try_lease(Leased::Recovery).unwrap().is_none());
        assert!(one.try_lease(Leased::Recovery).unwrap().is_none());
        assert!(other.try_lease(Leased::ContentRemoval).unwrap().is_some());
        one.release(&lease);
        let lease = other.try_lease(Leased::Recovery).unwrap().unwrap();
        assert!(one.try_lease(Leased::Recovery).unwrap().is_none());
        other.release(&lease);
        assert!(one.try_lease(Leased::Recovery).unwrap().is_some());
    }

    #[test]
    fn a_lease_that_is_not_prolonged_ends_and_its_holder_learns_that() {
        let [one, other] = pair();
        let mut lost = one.try_lease_for(Leased::Recovery, SHORT).unwrap().unwrap();
        let begun = Instant::now();
        let mut lease = wait_for(&other, SHORT);
        assert!(begun.elapsed() >= SHORT);
        assert!(!one.prolong(&mut lost).unwrap());
        // What was lost is not given up in the name of the other.
        one.release(&lost);
        lease.prolonged_at -= SHORT;
        assert!(other.prolong(&mut lease).unwrap());
    }

    #[test]
    fn a_lease_that_nobody_took_is_prolonged_even_after_its_time() {
        let [one, other] = pair();
        let mut lease = one.try_lease_for(Leased::Recovery, SHORT).unwrap().unwrap();
        assert!(other.try_lease(Leased::Recovery).unwrap().is_none());
        lease.prolonged_at -= SHORT;
        assert!(one.prolong(&mut lease).unwrap());
        // The other process begins to wait anew.
        assert!(other.try_lease(Leased::Recovery).unwrap().is_none());
    }

    #[test]
    fn a_store_of_one_process_keeps_leases_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&super::super::Options::plain(dir.path().into(), 1 << 20)).unwrap();
        let before = store.records();
        let mut lease = store.try_lease(Leased::Purge("!a:b")).unwrap().unwrap();
        assert!(store.try_lease(Leased::Purge("!a:b")).unwrap().is_none());
        lease.prolonged_at -= LEASE_TIME;
        assert!(store.prolong(&mut lease).unwrap());
        assert_eq!(store.records(), before);
        store.release(&lease);
        assert!(store.try_lease(Leased::Purge("!a:b")).unwrap().is_some());
    }
}
