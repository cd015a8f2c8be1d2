//! The engine of a store in a directory of this machine: a sled tree, and what sled leaves to its
//! user: durability, a bound on every write, and the note that a write has failed.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    Changes, Commit, Durability, Records, Seen, StoreError, StoredValue, durable::Durable,
    group_commit::GroupCommit, mark::Mark, panics::caught, sled::Tree, volume, watchdog::Watchdog,
};

/// Bytes of batches that may accumulate before sled is made to write its log: half of one of its
/// segments. Its log grows by more than that, since sled also writes whole pages now and then.
const MAX_UNFLUSHED_BYTES: usize = 256 << 10;

/// A sled tree in a directory. One process at a time has it open.
pub(in crate::store) struct Local {
    pub(super) tree: Tree,
    pub(super) data_dir: PathBuf,
    pub(super) flushes: GroupCommit,
    pub(super) mark: Mark,
    /// Set for good when a write or a flush has failed: sled may be poisoned from then on.
    pub(super) failed: AtomicBool,
    /// Bytes of batches since the last flush.
    pub(super) unflushed: AtomicUsize,
    /// Declared after `tree`, so that it is dropped after it: it closes the tree.
    pub(super) closing: Closing,
    pub(super) watchdog: Watchdog,
    /// The lock of the directory, held as long as the store is open.
    pub(super) _lock: File,
}

/// What remains to be done when a store is closed.
pub(super) struct Closing {
    /// A file that exists while the store is open. If an opening finds it, the store was not closed.
    pub(super) marker: PathBuf,
    pub(super) durable: Durable,
    /// Everything was flushed, and the mark says so.
    pub(super) is_clean: AtomicBool,
    /// The last clone of the tree: sled panics while it is dropped if the disk fails.
    pub(super) tree: Option<Tree>,
}

impl Local {
    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        self.tree.read(key)
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        self.tree.scan(prefix, after, limit)
    }

    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.last_key(prefix)
    }

    /// As [`Engine::commit`](super::Engine::commit). The caller holds the lock of the room, and no
    /// other process has the store open, so the record cannot change between the comparison and the
    /// batch. The comparison costs one read, and makes the contract the same for every engine.
    pub(super) fn commit(
        &self,
        seen: Option<&Seen>,
        mut changes: Changes,
    ) -> Result<Commit, StoreError> {
        if let Some(Seen { key, value, .. }) = seen
            && self.read(key)? != *value
        {
            return Ok(Commit::Conflict);
        }
        let bytes = |(key, value): (&Vec<u8>, &Option<StoredValue>)| {
            key.len() + value.as_ref().map_or(0, |it| it.len())
        };
        let bytes: usize = changes.iter().map(bytes).sum();
        if changes.len() == 1
            && let Some((key, value)) = changes.pop_first()
        {
            self.write(|tree| tree.apply_one(key, value))?;
        } else {
            self.write(|tree| tree.apply(changes))?;
        }
        self.after_batch(bytes)?;
        Ok(Commit::Done)
    }

    /// Makes sled write its log after a batch, if much has accumulated. sled writes each segment of
    /// its log in one of seven threads. A thread that needs a new segment holds a lock while it waits
    /// for the file to be shortened, which is work for the same seven threads. If all of them wait
    /// for that lock, sled waits for ever. So only few segments may be under way at any time.
    fn after_batch(&self, bytes: usize) -> Result<(), StoreError> {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) < MAX_UNFLUSHED_BYTES {
            return Ok(());
        }
        self.unflushed.store(0, Ordering::Relaxed);
        self.write(Tree::flush)
    }

    /// Returns when everything written before the call is on disk. Callers that wait at the same
    /// time share one flush.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.flushes.wait(|| self.flush_counted())
    }

    /// Returns when everything written before the call is on disk, without counting the flush.
    pub(super) fn flush_uncounted(&self) -> Result<(), StoreError> {
        self.unflushed.store(0, Ordering::Relaxed);
        self.write(Tree::flush)?;
        let _watched = self.watchdog.watch("a sync of the store");
        self.noted(self.closing.durable.sync())
    }

    pub(super) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        self.tree.bytes_on_disk()
    }

    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        volume::free_bytes(&self.data_dir)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn durability(&self) -> Durability {
        self.closing.durable.durability()
    }

    /// Makes the store write no more, and returns the failure as a failure to open the store.
    pub(super) fn give_up(&self, failure: StoreError) -> StoreError {
        self.failed.store(true, Ordering::SeqCst);
        match failure {
            StoreError::Engine(failure) => {
                StoreError::NotOpened { data_dir: self.data_dir.clone(), said: failure.into_text() }
            }
            other => other,
        }
    }

    /// Writes to sled. A failed write is remembered; one that does not return ends the process.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&Tree) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _watched = self.watchdog.watch("a write to the store");
        self.noted(caught(|| write(&self.tree)).and_then(|it| it))
    }

    /// Remembers a failed write.
    pub(super) fn noted<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        outcome
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // A failed store may have written less than was counted.
        if self.has_failed() {
            return;
        }
        let _watched = self.watchdog.watch("the closing of the store");
        let closed = caught(|| self.flush_uncounted().and_then(|()| self.mark.write()));
        if closed.and_then(|it| it).is_ok() {
            self.closing.is_clean.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let tree = self.tree.take();
        // sled writes until its last clone is dropped.
        let is_ended = caught(|| drop(tree)).is_ok();
        let is_clean = self.is_clean.load(Ordering::SeqCst);
        if is_ended && is_clean && self.durable.sync().is_ok() {
            // If the marker stays, the next opening is only slower.
            drop(fs::remove_file(&self.marker));
        }
    }
}
