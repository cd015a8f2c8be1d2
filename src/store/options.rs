//! How a store is opened.

use super::{Place, test_place};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the store is.
    pub place: Place,
    /// Memory for caches, in bytes: an eighth of it for states, a quarter for events as they are
    /// served, the rest for sled's pages.
    pub cache_bytes: u64,
    /// Bytes of the volume to keep free, because sled cannot open a store on a full volume. With
    /// less, new events are refused; they are accepted again when a quarter more than this is free.
    pub reserved_bytes: u64,
    /// Whether to refuse a file system that does not make each write durable before it returns.
    pub require_durable: bool,
    /// How long a write to the store may take before the process is ended.
    pub flush_timeout: Duration,
    /// How long a read or a commit waits for a database that does not answer.
    pub store_patience: Duration,
    /// How long the content of redacted events is kept.
    pub redacted_content: RedactedContent,
}

/// How long the content of redacted events is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedactedContent {
    /// It is never removed.
    KeptForEver,
    /// It is removed this time after the redaction took effect.
    RemovedAfter(Duration),
}

impl Default for RedactedContent {
    /// Seven days, as in Synapse.
    fn default() -> Self {
        Self::RemovedAfter(Duration::from_hours(7 * 24))
    }
}

impl Options {
    /// The default of [`flush_timeout`](Self::flush_timeout): many times what a write takes on a
    /// slow disk.
    pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

    /// The default of [`store_patience`](Self::store_patience): longer than a failover takes.
    pub const STORE_PATIENCE: Duration = Duration::from_secs(30);

    /// The part of `cache_bytes` that is for the engine, in bytes.
    pub(super) fn engine_cache_bytes(&self) -> u64 {
        self.cache_bytes - self.cache_bytes / 8 - self.cache_bytes / 4
    }

    /// Options for tests: 16 MiB of caches, and no bytes kept free. The store is kept by sled, or by
    /// the engine that `BACKSCROLL_TEST_ENGINE` names: `fjall`, or `postgres`, in a schema of its own in
    /// the database whose URL is in `BACKSCROLL_TEST_POSTGRES`.
    #[must_use]
    pub fn small(data_dir: &Path) -> Self {
        Self::of(test_place::of(data_dir), 16 << 20)
    }

    /// As [`of`](Self::of), for a store that sled keeps.
    #[must_use]
    pub fn plain(data_dir: PathBuf, cache_bytes: u64) -> Self {
        Self::of(Place::Sled(data_dir), cache_bytes)
    }

    /// Options for a store, with `cache_bytes` of caches, and no bytes kept free.
    #[must_use]
    pub fn of(place: Place, cache_bytes: u64) -> Self {
        let flush_timeout = Self::FLUSH_TIMEOUT;
        let store_patience = Self::STORE_PATIENCE;
        let redacted_content = RedactedContent::default();
        let (reserved_bytes, require_durable) = (0, false);
        Self {
            place,
            cache_bytes,
            reserved_bytes,
            require_durable,
            flush_timeout,
            store_patience,
            redacted_content,
        }
    }
}
