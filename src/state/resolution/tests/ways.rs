//! Resolves the same conflict in several ways, and asserts that all give the same result.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    state_res::{self, utils::event_id_set::EventIdSet},
};

use crate::state::resolution::{
    Conflict, StateEvent, StateMap, chains, event_cache::EventCache, found_in_chains, resolve,
    resolve_conflict, split,
};

/// The events and rules of a room.
pub(super) struct World<'a> {
    pub(super) name: &'a str,
    pub(super) rules: &'a RoomVersionRules,
    pub(super) events: &'a BTreeMap<OwnedEventId, Arc<StateEvent>>,
}

/// The number of resolutions and look-ups.
#[derive(Debug, Default)]
pub(super) struct Tally {
    merges: usize,
    /// How often `unconflicted` was called.
    looked_up: Cell<usize>,
    /// How often `in_unconflicted_chain` was called.
    asked: Cell<usize>,
}

/// Resolves states in several ways, which must all give the same result.
pub(super) fn all_ways(world: &World<'_>, states: &[StateMap], tally: &mut Tally) -> StateMap {
    tally.merges += 1;
    let fetch = |id: &EventId| world.events.get(id).cloned();
    let whole = resolve(world.rules, states, &fetch).unwrap();
    assert_eq!(whole.missing, BTreeSet::new(), "{}: gaps in the auth chains", world.name);

    let backwards: Vec<_> = states.iter().rev().cloned().collect();
    assert_eq!(resolve(world.rules, &backwards, &fetch).unwrap(), whole, "{}", world.name);

    let reduced = merge_conflict_only(world, states, tally);
    assert_eq!(reduced, whole.state, "{}", world.name);
    if let Some(oracle) = merge_all_by_ruma(world, states) {
        assert_eq!(oracle, whole.state, "{}", world.name);
    }
    reduced
}

/// Resolves as a caller with large states does: passes only the entries that differ.
fn merge_conflict_only(world: &World<'_>, states: &[StateMap], tally: &Tally) -> StateMap {
    let fetch = |id: &EventId| world.events.get(id).cloned();
    let parts = split(states).unwrap();
    let shared_ids: BTreeSet<_> = parts.shared.values().cloned().collect();
    let conflict = Conflict {
        states: &parts.conflicted,
        unconflicted: &|event_type, state_key| {
            tally.looked_up.set(tally.looked_up.get() + 1);
            parts.shared.get(&(event_type.to_owned(), state_key.to_owned())).cloned()
        },
        in_unconflicted_chain: &|candidates| {
            tally.asked.set(tally.asked.get() + 1);
            let found =
                found_by_citers(candidates, &|id| citers(world, id), &|id| shared_ids.contains(id));
            let scanned =
                found_in_chains(world.rules, candidates, shared_ids.iter().cloned(), &fetch);
            assert_eq!(found, scanned, "{}", world.name);
            found
        },
    };
    let mut state = resolve_conflict(world.rules, &conflict, &fetch).unwrap().state;
    state.extend(parts.shared.clone());
    state
}

fn citers(world: &World<'_>, id: &EventId) -> Vec<OwnedEventId> {
    let cites = |event: &&Arc<StateEvent>| {
        event.state_key.is_some() && event.auth_events.iter().any(|it| it == id)
    };
    world.events.values().filter(cites).map(|event| event.event_id.clone()).collect()
}

/// Resolves with ruma on whole states and whole auth chains, for comparison.
fn merge_all_by_ruma(world: &World<'_>, states: &[StateMap]) -> Option<StateMap> {
    let StateResolutionVersion::V2(algorithm) = world.rules.state_res else { return None };
    let fetch = |id: &EventId| world.events.get(id).cloned();
    let cache = EventCache::new(world.rules, &fetch);
    let ruma_map = |state: &StateMap| -> state_res::StateMap<OwnedEventId> {
        let entry = |((event_type, state_key), id): (&(String, String), &OwnedEventId)| {
            ((StateEventType::from(event_type.as_str()), state_key.clone()), id.clone())
        };
        state.iter().map(entry).collect()
    };
    let maps: Vec<_> = states.iter().map(ruma_map).collect();
    let chain = |state: &StateMap| -> EventIdSet<OwnedEventId> {
        let chain = chains::auth_chain(&cache, state.values().cloned(), &|_| false);
        chain.into_iter().collect()
    };
    let resolved = state_res::resolve(
        &world.rules.authorization,
        &algorithm,
        &maps,
        states.iter().map(chain).collect(),
        fetch,
        |conflicted| {
            let ids = conflicted.values().flatten().cloned().collect();
            Some(chains::conflicted_subgraph(&cache, &ids).into_iter().collect())
        },
    );
    let resolved = resolved.unwrap().into_iter();
    Some(resolved.map(|((event_type, key), id)| ((event_type.to_string(), key), id)).collect())
}

/// A second way to answer `in_unconflicted_chain`: walks from the candidates forward to the shared
/// entries, along the state events that have them in their `auth_events` (`cited_by`).
fn found_by_citers(
    candidates: &BTreeSet<OwnedEventId>,
    cited_by: &dyn Fn(&EventId) -> Vec<OwnedEventId>,
    is_shared: &dyn Fn(&EventId) -> bool,
) -> BTreeSet<OwnedEventId> {
    let leads_to_shared = |candidate: &&OwnedEventId| {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![(*candidate).clone()];
        while let Some(id) = ahead.pop() {
            if is_shared(&id) {
                return true;
            }
            if !seen.contains(&id) {
                ahead.extend(cited_by(&id));
                seen.insert(id);
            }
        }
        false
    };
    candidates.iter().filter(leads_to_shared).cloned().collect()
}
