//! What the state sets agree on: looked up when needed, never listed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use ruma::OwnedEventId;

use super::{Conflict, Split, StateEvent, StateKey, StateMap, chains::found_behind, held::Held};

type Ids = BTreeSet<OwnedEventId>;

/// The entries that all state sets share, whoever holds them. Each is looked up once.
pub(super) struct Agreed<'a> {
    conflict: &'a Conflict<'a>,
    /// What the sets differ in; no such entry is ever looked up.
    conflicted: &'a [StateMap],
    /// Entries that were given as conflicted and are not.
    shared: &'a StateMap,
    known: RefCell<BTreeMap<StateKey, Option<OwnedEventId>>>,
}

impl<'a> Agreed<'a> {
    pub(super) fn new(conflict: &'a Conflict<'a>, split: &'a Split) -> Self {
        let Split { shared, conflicted } = split;
        Self { conflict, conflicted, shared, known: RefCell::default() }
    }

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

    /// Drops the events that stand in, or authorise, any shared entry.
    pub(super) fn retain_beyond_all_chains(&self, held: &Held<'_>, ids: &mut Ids) {
        let found = (self.conflict.in_unconflicted_chain)(ids);
        ids.retain(|id| !found.contains(id));
        // Entries that were passed as conflicted, but are shared, are ours to look through.
        let found = found_behind(held, ids, self.shared.values().cloned());
        ids.retain(|id| !found.contains(id));
    }
}
