//! The entries that the state sets agree on: looked up when needed, never listed.

use std::{cell::RefCell, collections::BTreeMap};

use ruma::OwnedEventId;

use super::{
    Conflict, EventIds, Split, StateEvent, StateKey, StateMap, chains::found_behind,
    event_cache::EventCache,
};

/// The entries that all state sets share. Each is looked up once.
pub(super) struct Agreed<'a> {
    conflict: &'a Conflict<'a>,
    /// The entries in which the sets differ; these are never looked up.
    conflicted: &'a [StateMap],
    /// Entries that the caller passed as conflicted, but that all sets share.
    shared: &'a StateMap,
    known: RefCell<BTreeMap<StateKey, Option<OwnedEventId>>>,
}

impl<'a> Agreed<'a> {
    pub(super) fn new(conflict: &'a Conflict<'a>, split: &'a Split) -> Self {
        let Split { shared, conflicted } = split;
        Self { conflict, conflicted, shared, known: RefCell::default() }
    }

    /// The event of a shared entry; `None` if the entry is not shared, or empty.
    pub(super) fn get(&self, key: &StateKey) -> Option<OwnedEventId> {
        if let Some(known) = self.known.borrow().get(key) {
            return known.clone();
        }
        let found = if self.conflicted.iter().any(|state| state.contains_key(key)) {
            None
        } else {
            let (event_type, state_key) = key;
            let elsewhere = || (self.conflict.unconflicted)(event_type, state_key);
            self.shared.get(key).cloned().or_else(elsewhere)
        };
        self.known.borrow_mut().insert(key.clone(), found.clone());
        found
    }

    /// Whether the event is itself a shared entry.
    pub(super) fn holds(&self, event: &StateEvent) -> bool {
        event.key().and_then(|key| self.get(&key)).as_ref() == Some(&event.event_id)
    }

    /// Drops the events that are a shared entry or authorise one.
    pub(super) fn retain_beyond_all_chains(&self, cache: &EventCache<'_>, ids: &mut EventIds) {
        let found = (self.conflict.in_unconflicted_chain)(ids);
        ids.retain(|id| !found.contains(id));
        // The caller does not know the entries that it passed as conflicted although they are shared.
        let found = found_behind(cache, ids, self.shared.values().cloned());
        ids.retain(|id| !found.contains(id));
    }
}
