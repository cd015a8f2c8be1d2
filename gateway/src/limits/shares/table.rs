//! The table of all shares of one resource, and the choice of those to evict.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    mem,
    time::Duration,
};

use tokio::time::Instant;

use super::{Amount, Full, ShareBounds};
use crate::limits::EvictionHandle;

/// All shares of one resource, by id.
pub(super) struct ShareTable<K> {
    /// The next turn. Turns order shares by age, and are their ids.
    turn: u64,
    total: Amount,
    owners: HashMap<K, OwnerShares>,
    entries: HashMap<u64, ShareEntry<K>>,
}

/// The shares of one owner.
#[derive(Debug, Default)]
struct OwnerShares {
    amount: Amount,
    /// The shares that can be evicted, oldest first: the turn since which they can, and their ids.
    evictable: BTreeSet<(u64, u64)>,
}

struct ShareEntry<K> {
    /// `None`: the share counts, but is never evicted.
    owner: Option<K>,
    bytes: usize,
    since: Instant,
    /// When some of it was last read or written.
    progressed: Instant,
    turn: u64,
    /// Number of protections that are held.
    protections: usize,
    eviction: EvictionHandle,
}

/// The two things that a bound limits.
#[derive(Clone, Copy)]
enum Measure {
    Count,
    Bytes,
}

impl Amount {
    fn of(self, measure: Measure) -> usize {
        match measure {
            Measure::Count => self.count,
            Measure::Bytes => self.bytes,
        }
    }
}

impl<K: Eq + Hash + Clone> ShareTable<K> {
    pub(super) fn new() -> Self {
        Self { turn: 0, total: Amount::default(), owners: HashMap::new(), entries: HashMap::new() }
    }

    pub(super) fn total(&self) -> Amount {
        self.total
    }

    #[cfg(test)]
    pub(super) fn owners(&self) -> usize {
        self.owners.len()
    }

    /// Inserts a share, and returns its id.
    pub(super) fn insert(
        &mut self,
        owner: Option<K>,
        bytes: usize,
        eviction: EvictionHandle,
    ) -> u64 {
        self.turn += 1;
        let id = self.turn;
        self.total.count += 1;
        self.total.bytes += bytes;
        if let Some(owner) = &owner {
            let shares = self.owners.entry(owner.clone()).or_default();
            shares.amount.count += 1;
            shares.amount.bytes += bytes;
            shares.evictable.insert((id, id));
        }
        let since = Instant::now();
        let entry = ShareEntry {
            owner,
            bytes,
            since,
            progressed: since,
            turn: id,
            protections: 0,
            eviction,
        };
        self.entries.insert(id, entry);
        id
    }

    /// Removes a share. `None` if there is no such share any more.
    pub(super) fn remove(&mut self, id: u64) -> Option<EvictionHandle> {
        let ShareEntry { owner, bytes, turn, eviction, .. } = self.entries.remove(&id)?;
        self.total.count -= 1;
        self.total.bytes -= bytes;
        if let Some(owner) = owner
            && let Some(shares) = self.owners.get_mut(&owner)
        {
            shares.amount.count -= 1;
            shares.amount.bytes -= bytes;
            shares.evictable.remove(&(turn, id));
            if shares.amount.count == 0 {
                self.owners.remove(&owner);
            }
        }
        Some(eviction)
    }

    pub(super) fn remove_older_than(&mut self, age: Duration) -> Vec<EvictionHandle> {
        let is_old = |entry: &ShareEntry<K>| entry.since.elapsed() > age;
        let old = self.entries.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| *id);
        let old: Vec<u64> = old.collect();
        old.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Removes the oldest share without progress for `age`, of the owner with the most bytes.
    pub(super) fn remove_stalled(&mut self, age: Duration) -> Option<EvictionHandle> {
        let stalled = self.entries.iter().filter(|(_, it)| it.progressed.elapsed() >= age);
        let candidates =
            stalled.map(|(id, it)| (self.amount_of(it.owner.as_ref()).bytes, Reverse(*id)));
        let (_, Reverse(id)) = candidates.max()?;
        self.remove(id)
    }

    /// Removes all shares without progress for `age` that are not protected.
    pub(super) fn remove_all_stalled(&mut self, age: Duration) -> Vec<EvictionHandle> {
        let is_stalled = |it: &ShareEntry<K>| it.protections == 0 && it.progressed.elapsed() >= age;
        let stalled = self.entries.iter().filter(|(_, it)| is_stalled(it)).map(|(id, _)| *id);
        let stalled: Vec<u64> = stalled.collect();
        stalled.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Evicts shares until this much more of an owner fits into the bounds.
    pub(super) fn make_room(
        &mut self,
        bounds: &ShareBounds,
        owner: Option<&K>,
        more: Amount,
        evicted: &mut Vec<EvictionHandle>,
    ) -> Result<(), Full> {
        for measure in [Measure::Count, Measure::Bytes] {
            let more = more.of(measure);
            if more == 0 {
                continue;
            }
            // A share that is larger than the bound is accepted if it is the only one.
            while let Some(owner) = owner
                && let amount = self.amount_of(Some(owner)).of(measure)
                && amount > 0
                && amount + more > bounds.each.of(measure)
            {
                let oldest = self.oldest_of(owner, measure).ok_or(Full)?;
                evicted.extend(self.remove(oldest));
            }
            while self.total.of(measure) > 0
                && self.total.of(measure) + more > bounds.all.of(measure)
            {
                let oldest = self.oldest_of_largest(owner, measure).ok_or(Full)?;
                evicted.extend(self.remove(oldest));
            }
        }
        Ok(())
    }

    pub(super) fn grow(
        &mut self,
        bounds: &ShareBounds,
        id: u64,
        bytes: usize,
        evicted: &mut Vec<EvictionHandle>,
    ) -> Result<(), Full> {
        let owner = self.entries.get(&id).ok_or(Full)?.owner.clone();
        self.make_room(bounds, owner.as_ref(), Amount { count: 0, bytes }, evicted)?;
        // It may be this share that was evicted.
        self.entries.get_mut(&id).ok_or(Full)?.bytes += bytes;
        self.total.bytes += bytes;
        if let Some(shares) = owner.and_then(|owner| self.owners.get_mut(&owner)) {
            shares.amount.bytes += bytes;
        }
        Ok(())
    }

    pub(super) fn note_progress(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.progressed = Instant::now();
        }
    }

    pub(super) fn clear_bytes(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let bytes = mem::take(&mut entry.bytes);
        self.total.bytes -= bytes;
        if let Some(shares) = entry.owner.as_ref().and_then(|it| self.owners.get_mut(it)) {
            shares.amount.bytes -= bytes;
        }
    }

    /// Takes a share out of those that can be evicted. `false` if there is no such share any more.
    pub(super) fn protect(&mut self, id: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.protections += 1;
        if let Some(shares) = entry.owner.as_ref().and_then(|it| self.owners.get_mut(it)) {
            shares.evictable.remove(&(entry.turn, id));
        }
        true
    }

    /// Ends one protection. After the last one, the share can be evicted again, and counts as new.
    pub(super) fn unprotect(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.protections -= 1;
        if entry.protections == 0 {
            entry.progressed = Instant::now();
            self.turn += 1;
            entry.turn = self.turn;
            if let Some(shares) = entry.owner.as_ref().and_then(|it| self.owners.get_mut(it)) {
                shares.evictable.insert((entry.turn, id));
            }
        }
    }

    fn amount_of(&self, owner: Option<&K>) -> Amount {
        owner.and_then(|owner| self.owners.get(owner)).map(|it| it.amount).unwrap_or_default()
    }

    /// The oldest share of an owner that can be evicted and has some of the measure.
    fn oldest_of(&self, owner: &K, measure: Measure) -> Option<u64> {
        let frees_some = |id: &u64| match measure {
            Measure::Count => true,
            Measure::Bytes => self.entries.get(id).is_some_and(|it| it.bytes > 0),
        };
        self.owners.get(owner)?.evictable.iter().map(|(_, id)| *id).find(frees_some)
    }

    /// The same of the owner with the most, provided that it has no less than `owner`.
    fn oldest_of_largest(&self, owner: Option<&K>, measure: Measure) -> Option<u64> {
        let least = self.amount_of(owner).of(measure);
        let larger = self.owners.iter().filter(|(_, it)| it.amount.of(measure) >= least);
        let candidates = larger.filter_map(|(owner, it)| {
            Some((it.amount.of(measure), Reverse(self.oldest_of(owner, measure)?)))
        });
        candidates.max().map(|(_, Reverse(id))| id)
    }
}
