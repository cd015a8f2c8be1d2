//! Copies a whole store, record by record. The copy has none of the bytes that the log of the original
//! still contains of records that were replaced or removed.

use super::{Store, StoreError, View, engine::Changes, keys};
use crate::num;

/// Records in one batch.
const RECORDS_PER_BATCH: usize = 64;
/// Batches between two flushes.
const BATCHES_PER_FLUSH: usize = 64;

impl Store {
    /// Copies every record into another store, which was made a moment ago. `copied` is called with
    /// the number of records that were copied since the last call. Everything is on disk when this
    /// returns.
    ///
    /// # Errors
    /// When a record cannot be read or written.
    pub fn copy_into(&self, to: &Self, copied: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        for batch in 1_usize.. {
            let records = self.scan(&[], after.as_deref(), RECORDS_PER_BATCH)?;
            let Some((last, _)) = records.last() else { break };
            after = Some(last.clone());
            let count = num::u64(records.len());
            // Each store counts its own flushes.
            let changes = records.into_iter().filter(|(key, _)| *key != keys::mark());
            let changes: Changes = changes.map(|(key, value)| (key, Some(value))).collect();
            to.engine.put(changes)?;
            if batch % BATCHES_PER_FLUSH == 0 {
                to.flush()?;
            }
            copied(count);
        }
        to.flush()
    }
}
