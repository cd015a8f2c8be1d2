//! How large the store is, and how many notes of unfinished work it holds.

use super::{EngineCounts, Replication, Store, StoreError, View, keys};

/// Records read at a time while they are counted.
const COUNTED_AT_ONCE: usize = 1_000;

impl Store {
    /// Bytes that the store takes on disk.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        self.engine.bytes_on_disk()
    }

    /// Bytes that are free on the volume of the store.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.engine.free_bytes()
    }

    /// The servers that copy the database of the store; `None` if it is on this machine.
    pub fn replication(&self) -> Result<Option<Replication>, StoreError> {
        self.engine.replication()
    }

    /// What the engine has counted since the store was opened; `None` if it is on this machine.
    pub fn engine_counts(&self) -> Option<EngineCounts> {
        self.engine.counts()
    }

    /// References to events that are not placed, in all rooms; counted up to `at_most`.
    pub fn count_gaps(&self, at_most: usize) -> Result<u64, StoreError> {
        self.count(&keys::all_gaps(), at_most)
    }

    /// Events whose state waits for that of another, in all rooms; counted up to `at_most`.
    pub fn count_waiting(&self, at_most: usize) -> Result<u64, StoreError> {
        self.count(&keys::all_waiting(), at_most)
    }

    fn count(&self, prefix: &[u8], at_most: usize) -> Result<u64, StoreError> {
        let mut count = 0;
        let mut after: Option<Vec<u8>> = None;
        while count < at_most {
            let limit = COUNTED_AT_ONCE.min(at_most - count);
            let records = self.scan(prefix, after.as_deref(), limit)?;
            count += records.len();
            match records.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        Ok(crate::num::u64(count))
    }
}
