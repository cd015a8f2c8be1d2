//! An engine in memory for tests: a map that reports conflicts at random, from a seed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Ahead, Changes, Commit, Effect, Records, Seen, Set, StoredValue, flights::Flights,
    shared_map::SharedMap,
};
use crate::store::StoreError;

/// More conflicts in a row would use up the tries of a decision.
const MAX_CONFLICTS_IN_A_ROW: u32 = 8;

/// A map in memory that reports a conflict for one in `one_in` conditional commits; for none if
/// that is 0.
pub(in crate::store) struct TestEngine {
    one_in: u64,
    /// Whether it takes itself for an engine behind a network, and counts round trips.
    counts: bool,
    state: Mutex<TestState>,
    /// A map that other stores share; then the one in `state` is not used.
    shared: Option<SharedMap>,
}

struct TestState {
    records: BTreeMap<Vec<u8>, StoredValue>,
    random: u64,
    in_a_row: u32,
    conflicts: u64,
    flights: Flights,
}

impl TestEngine {
    pub(in crate::store) fn new(seed: u64, one_in: u64) -> Self {
        let records = BTreeMap::new();
        let flights = Flights::default();
        let state = TestState { records, random: seed, in_a_row: 0, conflicts: 0, flights };
        Self { one_in, counts: false, state: Mutex::new(state), shared: None }
    }

    /// An engine without conflicts that counts round trips.
    pub(in crate::store) fn counting() -> Self {
        Self { counts: true, ..Self::new(0, 0) }
    }

    /// Engines without conflicts of their own over one map: each is that of a process.
    pub(in crate::store) fn sharing(count: usize) -> Vec<Self> {
        let engines = SharedMap::several(count).into_iter();
        engines.map(|it| Self { shared: Some(it), ..Self::new(0, 0) }).collect()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    pub(super) fn foreign_changes(&self, set: Set) -> u64 {
        self.shared.as_ref().map_or(0, |it| it.foreign_changes(set))
    }

    pub(super) fn learn_sets(&self) {
        if let Some(shared) = &self.shared {
            shared.learn_sets();
        }
    }

    pub(super) fn room_mark(&self, number: u32) -> u64 {
        self.shared.as_ref().map_or(number.into(), |it| it.room_mark(number))
    }

    pub(super) fn see(&self, key: Vec<u8>) -> Result<Seen, StoreError> {
        if let Some(shared) = &self.shared {
            return shared.see(key);
        }
        let value = self.read(&key)?;
        Ok(Seen { key, value, stamp: None })
    }

    /// The round trips since the last call. What is in memory is dropped if `forget` says so.
    pub(in crate::store) fn take_flights(&self, forget: bool) -> u64 {
        let mut state = self.state();
        if forget {
            state.flights.forget();
        }
        std::mem::take(&mut state.flights.count)
    }

    pub(super) fn reads_ahead(&self) -> bool {
        self.counts
    }

    pub(super) fn is_in_memory(&self, key: &[u8]) -> bool {
        !self.counts || self.state().flights.has(key)
    }

    pub(super) fn read_ahead(&self, ahead: &Ahead) {
        self.state().flights.read(ahead);
    }

    pub(super) fn read_many(
        &self,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<StoredValue>>, StoreError> {
        if let Some(shared) = &self.shared {
            return keys.iter().map(|it| shared.read(it)).collect();
        }
        let mut state = self.state();
        state.flights.read(&Ahead { keys: keys.to_vec(), prefixes: Vec::new() });
        Ok(keys.iter().map(|it| state.records.get(it).cloned()).collect())
    }

    /// How many conflicts were reported that were none.
    pub(in crate::store) fn conflicts(&self) -> u64 {
        self.state().conflicts
    }

    pub(super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        if let Some(shared) = &self.shared {
            return shared.read(key);
        }
        let mut state = self.state();
        let value = state.records.get(key).cloned();
        if self.counts {
            match key.first() {
                Some(1) => state.flights.room_read(key, value.as_ref()),
                _ => state.flights.read(&Ahead { keys: vec![key.to_vec()], prefixes: Vec::new() }),
            }
        }
        Ok(value)
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        if let Some(shared) = &self.shared {
            return shared.scan(prefix, after, limit);
        }
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let mut state = self.state();
        if self.counts {
            state.flights.read(&Ahead { keys: Vec::new(), prefixes: vec![prefix.to_vec()] });
        }
        let records = state.records.range::<[u8], _>((from, Bound::Unbounded));
        let records = records.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(records.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    pub(super) fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(shared) = &self.shared {
            return shared.last_key(prefix);
        }
        let state = self.state();
        Ok(state.records.keys().rfind(|key| key.starts_with(prefix)).cloned())
    }

    pub(super) fn commit(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
        effect: Effect,
    ) -> Result<Commit, StoreError> {
        if let Some(shared) = &self.shared {
            return shared.commit(seen, changes, effect);
        }
        let mut state = self.state();
        if let Some(Seen { key, value, .. }) = seen
            && (state.records.get(key) != value.as_ref() || state.is_conflict(self.one_in))
        {
            return Ok(Commit::Conflict);
        }
        state.flights.count += 1;
        for (key, value) in changes {
            match value {
                Some(value) => state.records.insert(key, value),
                None => state.records.remove(&key),
            };
        }
        Ok(Commit::Done)
    }

    fn state(&self) -> MutexGuard<'_, TestState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TestState {
    /// Draws whether the next conditional commit is refused.
    fn is_conflict(&mut self, one_in: u64) -> bool {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (mixed ^ (mixed >> 31)).checked_rem(one_in) == Some(0);
        let is_conflict = drawn && self.in_a_row < MAX_CONFLICTS_IN_A_ROW;
        self.in_a_row = if is_conflict { self.in_a_row + 1 } else { 0 };
        self.conflicts += u64::from(is_conflict);
        is_conflict
    }
}
