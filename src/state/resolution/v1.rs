//! State resolution version 1, for room version 1, as Synapse runs it.
//!
//! The entries are resolved in the order power levels, join rules, memberships, all others; each
//! stage authorises the next. In the first three stages, the candidates are checked from the
//! shallowest to the deepest, each with the one before it in force, up to the first that fails. For
//! the others, the deepest candidate that the rules allow wins, or the shallowest if none is allowed.
//!
//! Synapse differs visibly from <https://spec.matrix.org/latest/rooms/v1/#state-resolution> in one
//! point: an entry with one value in some sets and no value in the others is not conflicted but has
//! that value.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, state_res};
use sha1::{Digest, Sha1};

use super::{StateEvent, StateKey, StateMap, agreed::Agreed, event_cache::EventCache};

/// The events in force while an entry is resolved.
type InForce = BTreeMap<StateKey, Arc<StateEvent>>;
/// The events that compete for each entry.
type Candidates = BTreeMap<StateKey, Vec<Arc<StateEvent>>>;

const STAGES: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

pub(super) fn resolve(
    cache: &EventCache<'_>,
    conflicted: &[StateMap],
    agreed: &Agreed<'_>,
) -> StateMap {
    let (mut state, values) = take_lone_values(conflicted);
    let candidates: Candidates = values
        .into_iter()
        .map(|(key, ids)| (key, ids.iter().filter_map(|id| honoured(cache, id)).collect()))
        .collect();
    let mut in_force = shared_authority(cache, &candidates, &state, agreed);

    let mut open = Candidates::new();
    for (key, mut events) in candidates {
        if events.len() > 1 {
            events.sort_by_cached_key(|event| deepest_first(event));
            open.insert(key, events);
        } else if let Some(event) = events.first() {
            state.insert(key, event.event_id.clone());
        }
    }

    for stage in STAGES {
        // Power levels with a state key have no special role: they are resolved with the others.
        let of_stage = |key: &StateKey| key.0 == stage && (stage != STAGES[0] || key.1.is_empty());
        let settled: InForce = open
            .iter()
            .filter(|(key, _)| of_stage(key))
            .filter_map(|(key, events)| {
                Some((key.clone(), last_in_unbroken_order(cache, events, &in_force)?))
            })
            .collect();
        open.retain(|key, _| !settled.contains_key(key));
        state.extend(settled.iter().map(|(key, event)| (key.clone(), event.event_id.clone())));
        in_force.extend(settled);
    }
    for (key, events) in open {
        let allowed = events.iter().find(|event| is_allowed(cache, event, &in_force));
        if let Some(event) = allowed.or(events.last()) {
            state.insert(key, event.event_id.clone());
        }
    }
    state
}

/// Separates the entries with one value from those with several.
fn take_lone_values(conflicted: &[StateMap]) -> (StateMap, BTreeMap<StateKey, Vec<OwnedEventId>>) {
    let mut values: BTreeMap<StateKey, Vec<OwnedEventId>> = BTreeMap::new();
    for (key, id) in conflicted.iter().flatten() {
        let ids = values.entry(key.clone()).or_default();
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    let several = values.extract_if(.., |_, ids| ids.len() > 1).collect();
    let lone = values.into_iter().filter_map(|(key, ids)| Some((key, ids.into_iter().next()?)));
    (lone.collect(), several)
}

/// The entries without a conflict that the rules need to check the candidates.
fn shared_authority(
    cache: &EventCache<'_>,
    candidates: &Candidates,
    lone: &StateMap,
    agreed: &Agreed<'_>,
) -> InForce {
    let mut in_force = InForce::new();
    for key in candidates.values().flatten().flat_map(|event| event.auth_keys(cache.rules)) {
        if in_force.contains_key(&key) {
            continue;
        }
        let id = lone.get(&key).cloned().or_else(|| agreed.get(&key));
        if let Some(event) = id.and_then(|id| honoured(cache, &id)) {
            in_force.insert(key, event);
        }
    }
    in_force
}

fn honoured(cache: &EventCache<'_>, id: &OwnedEventId) -> Option<Arc<StateEvent>> {
    cache.get_for_ruma(id).filter(|event| !event.rejected)
}

/// The order of Synapse: by depth, then by the hash of the id.
fn deepest_first(event: &StateEvent) -> (Reverse<i64>, [u8; 20]) {
    (Reverse(event.depth), Sha1::digest(event.event_id.as_bytes()).into())
}

/// The last event, from the shallowest on, before the first that is not allowed with the event before
/// it in force.
fn last_in_unbroken_order(
    cache: &EventCache<'_>,
    deepest_first: &[Arc<StateEvent>],
    in_force: &InForce,
) -> Option<Arc<StateEvent>> {
    let mut authority: InForce = deepest_first
        .iter()
        .flat_map(|event| event.auth_keys(cache.rules))
        .filter_map(|key| in_force.get(&key).cloned().map(|event| (key, event)))
        .collect();
    let mut shallowest_first = deepest_first.iter().rev();
    let mut winner = shallowest_first.next()?;
    for event in shallowest_first {
        authority.insert(winner.key()?, Arc::clone(winner));
        if !is_allowed(cache, event, &authority) {
            break;
        }
        winner = event;
    }
    Some(Arc::clone(winner))
}

fn is_allowed(cache: &EventCache<'_>, event: &StateEvent, in_force: &InForce) -> bool {
    let lookup = |event_type: &ruma::events::StateEventType, state_key: &str| {
        in_force.get(&(event_type.to_string(), state_key.to_owned()))
    };
    state_res::check_state_dependent_auth_rules(cache.rules, event, lookup).is_ok()
}
