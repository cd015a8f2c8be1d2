//! Every call of the fjall crate: the engine of a store in a directory of this machine, kept by fjall.
//!
//! fjall appends each batch to a journal, which is synced before an acknowledgement, and sorts the
//! records into files later, in threads of its own. After a power cut it reads its journal up to the
//! last whole batch; but if the disk has written parts of the batch behind it, it may not open.
//! Nothing is made up for that: `docs/decisions/0011-fjall.md`. Only a database that was cut off while
//! it was made, and does not open, is made anew.

use std::{
    fs::{self, File},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _};

use super::{
    Changes, Commit, Records, Seen, StoreError, StoredValue,
    durable::at,
    group_commit::GroupCommit,
    opening::{lock_directory, patiently},
    panics::caught,
    volume,
    watchdog::Watchdog,
};
use crate::store::{EngineError, Options};

/// The folder of fjall's files, inside the directory of the store.
pub(super) const FOLDER: &str = "fjall";
/// The file that exists once everything of a new database is on disk.
const MADE: &str = "MADE";
/// The one keyspace: batches are atomic over one ordered map.
const KEYSPACE: &str = "records";
/// Bounds of the memory for records that are in the journal only.
const MIN_MEMTABLE: u64 = 4 << 20;
const MAX_MEMTABLE: u64 = 64 << 20;

/// A fjall database in a directory. One process at a time has it open.
pub(in crate::store) struct Fjall {
    database: Database,
    records: Keyspace,
    data_dir: PathBuf,
    flushes: GroupCommit,
    /// Set for good when a write or a flush has failed: fjall accepts no write from then on.
    failed: AtomicBool,
    watchdog: Watchdog,
    /// The lock of the directory, held as long as the store is open.
    _lock: File,
}

impl Fjall {
    /// Opens the database in a directory, and makes it if it does not exist.
    ///
    /// # Errors
    /// When another process has it open, when it is damaged, and when the directory holds a store of
    /// sled.
    pub(in crate::store) fn open(data_dir: &Path, options: &Options) -> Result<Self, StoreError> {
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        if data_dir.join("graph").exists() {
            return Err(StoreError::OtherEngine { data_dir: data_dir.to_owned(), engine: "sled" });
        }
        if options.require_durable {
            return Err(StoreError::EngineNotDurable("fjall"));
        }
        let lock = lock_directory(data_dir)?;
        let cache_bytes = options.engine_cache_bytes();
        let made = data_dir.join(MADE);
        let folder = data_dir.join(FOLDER);
        let open_once = || {
            let database = Database::builder(&folder).cache_size(cache_bytes).open()?;
            let memtable = (cache_bytes / 8).clamp(MIN_MEMTABLE, MAX_MEMTABLE);
            let settings = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
            let records = database.keyspace(KEYSPACE, settings)?;
            Ok::<_, fjall::Error>((database, records))
        };
        let open = || {
            if made.exists() {
                return open_once();
            }
            let opened = match open_once() {
                Err(fjall::Error::Locked) => return Err(fjall::Error::Locked),
                Err(_) if folder.exists() => {
                    // Nothing in it was ever acknowledged.
                    fs::remove_dir_all(&folder)?;
                    open_once()
                }
                opened => opened,
            }?;
            opened.0.persist(PersistMode::SyncAll)?;
            File::create(&made)?.sync_all()?;
            File::open(data_dir)?.sync_all()?;
            Ok(opened)
        };
        let said = |said| StoreError::NotOpened { data_dir: data_dir.to_owned(), said };
        let (database, records) = patiently(|| match caught(open) {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(fjall::Error::Locked)) => Err(StoreError::InUse(data_dir.to_owned())),
            Ok(Err(fjall::Error::Io(source))) => Err(at(data_dir)(source)),
            Ok(Err(failure)) => Err(said(failure.to_string())),
            Err(StoreError::Engine(failure)) => Err(said(failure.into_text())),
            Err(other) => Err(other),
        })?;
        Ok(Self {
            database,
            records,
            data_dir: data_dir.to_owned(),
            flushes: GroupCommit::default(),
            failed: AtomicBool::new(false),
            watchdog: Watchdog::start(options.flush_timeout),
            _lock: lock,
        })
    }

    /// Reads from a snapshot: a plain read of fjall may see the half of a batch.
    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        let value = self.database.snapshot().get(&self.records, key)?;
        Ok(value.map(|it| Bytes::from(it).into()))
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let snapshot = self.database.snapshot();
        let mut records = Records::new();
        for found in snapshot.range::<&[u8], _>(&self.records, (from, Bound::Unbounded)).take(limit)
        {
            let (key, value) = found.into_inner()?;
            if !key.starts_with(prefix) {
                break;
            }
            records.push((key.to_vec(), Bytes::from(value).into()));
        }
        Ok(records)
    }

    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let last = self.database.snapshot().prefix(&self.records, prefix).next_back();
        Ok(last.map(fjall::Guard::key).transpose()?.map(|key| key.to_vec()))
    }

    /// As [`Engine::commit`](super::Engine::commit). The caller holds the lock of the room, and no
    /// other process has the store open, so the record cannot change between the comparison and the
    /// batch.
    pub(super) fn commit(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
    ) -> Result<Commit, StoreError> {
        if let Some(Seen { key, value, .. }) = seen
            && self.read(key)? != *value
        {
            return Ok(Commit::Conflict);
        }
        let mut batch = self.database.batch();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.records, key, value.into_bytes()),
                None => batch.remove(&self.records, key),
            }
        }
        self.write("a write to the store", || batch.commit())?;
        Ok(Commit::Done)
    }

    /// Returns when everything written before the call is on disk. Callers that wait at the same
    /// time share one flush.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let sync = || self.database.persist(PersistMode::SyncAll);
        self.flushes.wait(|| self.write("a sync of the store", sync))
    }

    pub(super) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        Ok(self.database.disk_space()?)
    }

    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        volume::free_bytes(&self.data_dir)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Makes the store write no more.
    pub(super) fn give_up(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Writes. A failed write is remembered; one that does not return ends the process.
    fn write(
        &self,
        what: &'static str,
        write: impl FnOnce() -> fjall::Result<()>,
    ) -> Result<(), StoreError> {
        let _watched = self.watchdog.watch(what);
        let written = caught(write).and_then(|it| Ok(it?));
        if written.is_err() {
            self.give_up();
        }
        written
    }
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) => Self::Failed(error.to_string()),
            fjall::Error::Storage(_) if is_io(&error) => Self::Failed(error.to_string()),
            fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted => {
                Self::Failed(error.to_string())
            }
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self::Engine(error.into())
    }
}

/// Whether an error comes from the operating system, not from what a file contains.
fn is_io(error: &fjall::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        if at.is::<io::Error>() {
            return true;
        }
        cause = at.source();
    }
    false
}
