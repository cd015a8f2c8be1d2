//! Shares of a limited resource, such as connections or bytes of answers. There is a bound for all
//! owners together, and one for each owner. Where a bound is reached, the oldest share is evicted:
//! of the owner itself if its own bound is reached, otherwise of the owner with the most. So a flood
//! uses up only the part of its senders, and an owner with little always gets a share.

mod table;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;

use self::table::ShareTable;
use super::{EvictionHandle, PARTS};
use crate::metrics::{Metrics, ShareGauges};

/// How many shares there may be, and how many bytes: of all owners together, and of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShareBounds {
    pub(super) all: Amount,
    pub(super) each: Amount,
}

/// A number of shares, and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amount {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// A bound is reached, and no share of the owners with the most can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// All shares of one resource.
pub(crate) struct Shares<K: Eq + Hash>(Arc<SharesInner<K>>);

struct SharesInner<K> {
    /// The label of this resource in metrics.
    limiter: &'static str,
    metrics: Metrics,
    gauges: ShareGauges,
    bounds: ShareBounds,
    table: Mutex<ShareTable<K>>,
}

/// A share, which is free again when this is dropped.
pub(crate) struct Share<K: Eq + Hash + Clone> {
    shares: Shares<K>,
    id: u64,
}

/// Protects a share from eviction, until this is dropped.
#[derive(Debug)]
pub(crate) struct Protection<K: Eq + Hash + Clone>(Arc<Share<K>>);

impl ShareBounds {
    /// Bounds for all owners together, of which each owner may have one in [`PARTS`] parts.
    pub(super) fn divided(count: usize, bytes: usize) -> Self {
        let each = Amount { count: (count / PARTS).max(1), bytes: bytes / PARTS };
        Self { all: Amount { count, bytes }, each }
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub(super) fn new(limiter: &'static str, metrics: Metrics, bounds: ShareBounds) -> Self {
        let gauges = metrics.share_gauges(limiter);
        let table = Mutex::new(ShareTable::new());
        Self(Arc::new(SharesInner { limiter, metrics, gauges, bounds, table }))
    }

    /// Adds a share of this many bytes. Without an owner it counts, but is never evicted. `eviction`
    /// is used when the share is evicted later.
    pub(super) fn add(
        &self,
        owner: Option<K>,
        bytes: usize,
        eviction: EvictionHandle,
    ) -> Result<Share<K>, Full> {
        let added = self.change(|table, evicted| {
            let more = Amount { count: 1, bytes };
            table.make_room(&self.0.bounds, owner.as_ref(), more, evicted)?;
            let id = table.insert(owner, bytes, eviction);
            Ok(Share { shares: self.clone(), id })
        });
        if added.is_err() {
            self.0.metrics.limited(self.0.limiter);
        }
        added
    }

    /// Evicts all shares that are older than `age`.
    pub(super) fn evict_older_than(&self, age: Duration) {
        self.change(|table, evicted| evicted.extend(table.remove_older_than(age)));
    }

    /// Evicts one share without progress for `age`: the oldest of the owner with the most bytes.
    pub(super) fn evict_stalled(&self, age: Duration) {
        self.change(|table, evicted| evicted.extend(table.remove_stalled(age)));
    }

    /// Evicts all shares without progress for `age` that are not protected.
    pub(super) fn evict_all_stalled(&self, age: Duration) {
        self.change(|table, evicted| evicted.extend(table.remove_all_stalled(age)));
    }

    /// Changes the table. Handles of evicted shares are used after the table is unlocked.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut ShareTable<K>, &mut Vec<EvictionHandle>) -> T,
    ) -> T {
        let mut evicted = Vec::new();
        let changed = {
            let mut table = self.0.table.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = change(&mut table, &mut evicted);
            set(&self.0.gauges.count, table.total().count);
            set(&self.0.gauges.bytes, table.total().bytes);
            changed
        };
        for eviction in evicted {
            self.0.metrics.limited(self.0.limiter);
            eviction.evict();
        }
        changed
    }
}

fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// Adds bytes to the share. If that reaches a bound, this share itself may be evicted, which is
    /// [`Full`] as well.
    pub(crate) fn grow(&self, more: usize) -> Result<(), Full> {
        self.shares
            .change(|table, evicted| table.grow(&self.shares.0.bounds, self.id, more, evicted))
    }

    /// Notes progress: some of what the share stands for has been read or written.
    pub(crate) fn progressed(&self) {
        self.shares.change(|table, _| table.note_progress(self.id));
    }

    /// Sets the bytes of the share to zero.
    pub(crate) fn clear_bytes(&self) {
        self.shares.change(|table, _| table.clear_bytes(self.id));
    }

    /// Frees the share early. `false` if it was freed or evicted before.
    pub(crate) fn end(&self) -> bool {
        self.shares.change(|table, _| table.remove(self.id).is_some())
    }

    /// Protects the share from eviction while the result is held; afterwards it counts as new.
    /// `None` if it was evicted before.
    pub(crate) fn protect(self: &Arc<Self>) -> Option<Protection<K>> {
        let is_protected = self.shares.change(|table, _| table.protect(self.id));
        is_protected.then(|| Protection(Arc::clone(self)))
    }
}

impl<K: Eq + Hash + Clone> Drop for Protection<K> {
    fn drop(&mut self) {
        self.0.shares.change(|table, _| table.unprotect(self.0.id));
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("limiter", &self.0.limiter).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("id", &self.id).finish_non_exhaustive()
    }
}
