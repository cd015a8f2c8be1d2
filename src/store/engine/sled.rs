//! Every call of the sled crate.
//!
//! sled 0.34.7, not its alpha: the alpha is four to nine times slower on keys like ours and takes
//! several times the memory. sled leaves some cases of power cuts open; the other modules of the
//! engine handle them: [`durable`](super::durable), [`opening`](super::opening).

use std::path::Path;

use sled::{Batch, Db, IVec};

use super::{Changes, Records, StoreError, StoredValue};
use crate::store::EngineError;

/// How often sled's own thread flushes, in milliseconds. The store flushes before each
/// acknowledgement and needs no other flush. But the same thread moves live records out of mostly
/// dead segments of the log, one segment at a time, so that the segments can be used again. With a
/// longer pause, or none, dead segments accumulate as fast as events are loaded: the log grows to
/// two or three times its size. Each run costs an fsync, also in an idle store; shorter pauses save
/// no more space.
const TIDY_EVERY_MS: u64 = 10;
/// The text of sled's error when another process holds its file lock. The store takes its own lock
/// first, so the holder is a process that is about to end: trying again helps.
const LOCKED: &str = "could not acquire lock";

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Corruption { .. } => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Engine(error.into())
    }
}

/// Why sled did not open its files.
pub(super) enum NotOpened {
    /// Another process has them open.
    Locked,
    /// They cannot be read; sled's message.
    Failed(String),
}

/// A sled tree. A clone is the same tree.
#[derive(Clone)]
pub(super) struct Tree(Db);

impl Tree {
    /// Opens the tree in a folder, and makes it if it does not exist. `cache_bytes` bounds the
    /// memory for sled's pages.
    pub(super) fn open(folder: &Path, cache_bytes: u64) -> Result<Self, NotOpened> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(TIDY_EVERY_MS));
        match config.open() {
            Ok(tree) => Ok(Self(tree)),
            Err(sled::Error::Io(error)) if error.to_string().contains(LOCKED) => {
                Err(NotOpened::Locked)
            }
            Err(error) => Err(NotOpened::Failed(error.to_string())),
        }
    }

    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        Ok(self.0.get(key)?.map(Into::into))
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let from = match after {
            // The smallest key greater than `after` is `after` and a zero byte.
            Some(after) => [after, &[0]].concat(),
            None => prefix.to_vec(),
        };
        let has_prefix = |it: &sled::Result<(IVec, IVec)>| {
            it.as_ref().map_or(true, |it| it.0.starts_with(prefix))
        };
        self.0
            .range(from..)
            .take_while(has_prefix)
            .take(limit)
            .map(|it| Ok(it.map(|(key, value)| (key.to_vec(), value.into()))?))
            .collect()
    }

    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let last = self.0.scan_prefix(prefix).keys().next_back().transpose()?;
        Ok(last.map(|key| key.to_vec()))
    }

    /// Applies all changes as one atomic batch.
    pub(super) fn apply(&self, changes: Changes) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value.into_sled()),
                None => batch.remove(key),
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }

    /// Applies one change. sled does this with a weaker lock than [`apply`](Self::apply), so other
    /// single writes do not wait for it.
    pub(super) fn apply_one(
        &self,
        key: Vec<u8>,
        value: Option<StoredValue>,
    ) -> Result<(), StoreError> {
        match value {
            Some(value) => self.0.insert(key, value.into_sled())?,
            None => self.0.remove(key)?,
        };
        Ok(())
    }

    /// Writes the log to its file. A power cut may still lose it: see [`super::durable`].
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.0.flush()?;
        Ok(())
    }

    pub(super) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        Ok(self.0.size_on_disk()?)
    }
}
