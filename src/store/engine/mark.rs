//! Notices that the end of the log is lost. sled ends its log at the first bytes that it cannot
//! read, as after a crash, and goes on from there: records that damaged bytes cut off would be
//! missing without an error. So every flush is counted in the tree, and a file beside it, the mark,
//! says how many there were.
//!
//! The file is written at most once a second, and when the store is closed; always after the flush
//! that it counts. So it never says more than is on disk, whenever the process is killed. It is
//! synced itself before the flush counts as done.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Local, StoreError,
    durable::{at, sync},
    volume::is_full,
};
use crate::{
    store::{
        codec::{Malformed, add_checksum, strip_checksum},
        keys,
    },
    sync::lock,
};

pub(super) const FILE: &str = "MARK";
/// How often the file is written at most.
const EVERY: Duration = Duration::from_secs(1);

/// The count of flushes, and when the file was last written.
pub(super) struct Mark {
    path: PathBuf,
    flushes: AtomicU64,
    written: Mutex<Option<Instant>>,
}

impl Mark {
    pub(super) fn new(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        Self { path, flushes: AtomicU64::new(0), written: Mutex::default() }
    }

    /// The count in the file; `None` if there is no file or it cannot be read.
    fn read(&self) -> Option<u64> {
        number(strip_checksum(FILE.as_bytes(), &fs::read(&self.path).ok()?).ok()?).ok()
    }

    /// Writes the file. On a full disk the last one stays.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let count = self.flushes.load(Ordering::SeqCst).to_be_bytes().to_vec();
        let new = self.path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&add_checksum(FILE.as_bytes(), count))?;
            file.sync_all()
        });
        match written.and_then(|()| fs::rename(&new, &self.path)) {
            Err(error) if is_full(&error) => {
                tracing::debug!(%error, "cannot write the mark; the last one stays");
                Ok(())
            }
            Err(error) => Err(at(&new)(error)),
            Ok(()) => self.path.parent().map_or(Ok(()), sync),
        }
    }
}

impl Local {
    /// Compares the count in the tree with that of the file.
    ///
    /// # Errors
    /// [`StoreError::CutOff`] if the tree holds fewer flushes than the file says.
    pub(super) fn check_mark(&self) -> Result<(), StoreError> {
        let held = match self.counted(&keys::mark())? {
            Some(held) => held,
            None => self.counted(&keys::mark_2())?.unwrap_or(0),
        };
        match self.mark.read() {
            Some(expected) if expected > held => {
                Err(StoreError::CutOff { held, expected, mark: self.mark.path.clone() })
            }
            _ => {
                self.mark.flushes.store(held, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// The count of flushes in a record of the tree; `None` if there is no such record.
    fn counted(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.read(key)? else { return Ok(None) };
        let count = strip_checksum(key, &value).and_then(number);
        count.map(Some).map_err(|Malformed| StoreError::corrupt("mark", key))
    }

    /// Flushes, and counts the flush. [`GroupCommit`](super::group_commit::GroupCommit) calls it
    /// once at a time.
    pub(super) fn flush_counted(&self) -> Result<(), StoreError> {
        let count = self.mark.flushes.load(Ordering::SeqCst) + 1;
        let key = keys::mark();
        let value = add_checksum(&key, count.to_be_bytes().to_vec());
        self.write(|tree| tree.apply_one(key, Some(value.into())))?;
        self.flush_uncounted()?;
        self.mark.flushes.store(count, Ordering::SeqCst);
        let mut written = lock(&self.mark.written);
        if written.is_none_or(|it| it.elapsed() >= EVERY) {
            let _watched = self.watchdog.watch("a write of the mark");
            self.noted(self.mark.write())?;
            *written = Some(Instant::now());
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
}
