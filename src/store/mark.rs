//! How much the store has held, kept beside it. sled ends its log at the first bytes that it cannot
//! read and goes on from there, as after a crash: what changed bytes cut off would be gone without
//! a word. So every flush is counted in the tree, and a file says how many there have been.
//!
//! The file is written now and then and when the store is closed, always after the flush it counts:
//! it never says more than is on disk, whatever is killed when. It is on disk itself when it counts.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Store, StoreError, View,
    codec::{Malformed, seal, unseal},
    durable::{at, sync},
    kept::is_full,
    keys,
};

pub(super) const FILE: &str = "MARK";
/// How often it is written at most.
const EVERY: Duration = Duration::from_secs(1);

/// The count of flushes, and when it was last told to the file.
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

    /// What the file says. What cannot be read says nothing.
    fn read(&self) -> Option<u64> {
        number(unseal(FILE.as_bytes(), &fs::read(&self.path).ok()?).ok()?).ok()
    }

    /// Writes the file. On a full disk the last one stays.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let count = self.flushes.load(Ordering::SeqCst).to_be_bytes().to_vec();
        let new = self.path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&seal(FILE.as_bytes(), count))?;
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

impl Store {
    /// Compares what the tree holds with what the file says.
    pub(super) fn check_mark(&self) -> Result<(), StoreError> {
        let held = match self.read("mark", &keys::mark(), number)? {
            Some(held) => held,
            None => self.read("mark", &keys::mark_2(), number)?.unwrap_or(0),
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

    /// Flushes, and counts it. One at a time.
    pub(super) fn flush_counted(&self) -> Result<(), StoreError> {
        let count = self.mark.flushes.load(Ordering::SeqCst) + 1;
        let value = seal(&keys::mark(), count.to_be_bytes().to_vec());
        self.write(|tree| tree.insert(keys::mark(), value))?;
        self.flush_uncounted()?;
        self.mark.flushes.store(count, Ordering::SeqCst);
        let mut written = self.mark.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_none_or(|it| it.elapsed() >= EVERY) {
            let _watched = self.watchdog.watch("a write of the mark");
            self.noted(self.mark.write())?;
            *written = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns when everything written before the call is on disk.
    pub(super) fn flush_uncounted(&self) -> Result<(), StoreError> {
        self.write(|tree| tree.flush())?;
        let _watched = self.watchdog.watch("a sync of the store");
        self.noted(self.closing.durable.sync())
    }
}

fn number(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
}
