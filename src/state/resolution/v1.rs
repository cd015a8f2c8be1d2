//! State resolution version 1, for room version 1, as Synapse runs it.
//!
//! The entries are settled in the order power levels, join rules, memberships, everything else, and
//! each stage authorises the next. For the first three, the candidates are tried from the shallowest
//! to the deepest, each judged with the one before it in force, up to the first that fails. For the
//! others, the deepest that the rules allow wins, or the shallowest if none is.
//!
//! Synapse differs from <https://spec.matrix.org/latest/rooms/v1/#state-resolution> in one point
//! that shows: an entry with one value in some sets and none in the others is not conflicted, it
//! simply has that value.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, state_res};
use sha1::{Digest, Sha1};

use super::{StateEvent, StateKey, StateMap, agreed::Agreed, held::Held};

/// The events in force while an entry is settled.
type InForce = BTreeMap<StateKey, Arc<StateEvent>>;
type Candidates = BTreeMap<StateKey, Vec<Arc<StateEvent>>>;

const STAGES: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

pub(super) fn resolve(held: &Held<'_>, conflicted: &[StateMap], agreed: &Agreed<'_>) -> StateMap {
    let (mut state, values) = take_lone_values(conflicted);
    let candidates: Candidates = values
        .into_iter()
        .map(|(key, ids)| (key, ids.iter().filter_map(|id| honoured(held, id)).collect()))
        .collect();
    let mut in_force = shared_authority(held, &candidates, &state, agreed);

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
        // Power levels with a state key are none: they come with the rest.
        let of_stage = |key: &StateKey| key.0 == stage && (stage != STAGES[0] || key.1.is_empty());
        let settled: InForce = open
            .iter()
            .filter(|(key, _)| of_stage(key))
            .filter_map(|(key, events)| {
                Some((key.clone(), last_in_unbroken_order(held, events, &in_force)?))
            })
            .collect();
        open.retain(|key, _| !settled.contains_key(key));
        state.extend(settled.iter().map(|(key, event)| (key.clone(), event.event_id.clone())));
        in_force.extend(settled);
    }
    for (key, events) in open {
        let allowed = events.iter().find(|event| is_allowed(held, event, &in_force));
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

/// The entries without a conflict that the rules need to judge the candidates.
fn shared_authority(
    held: &Held<'_>,
    candidates: &Candidates,
    lone: &StateMap,
    agreed: &Agreed<'_>,
) -> InForce {
    let mut in_force = InForce::new();
    for key in candidates.values().flatten().flat_map(|event| event.auth_keys(held.rules)) {
        if in_force.contains_key(&key) {
            continue;
        }
        let id = lone.get(&key).cloned().or_else(|| agreed.get(&key));
        if let Some(event) = id.and_then(|id| honoured(held, &id)) {
            in_force.insert(key, event);
        }
    }
    in_force
}

fn honoured(held: &Held<'_>, id: &OwnedEventId) -> Option<Arc<StateEvent>> {
    held.get_for_ruma(id).filter(|event| !event.rejected)
}

/// Synapse's order. The hash decides between events of equal depth, nothing more.
fn deepest_first(event: &StateEvent) -> (Reverse<i64>, [u8; 20]) {
    (Reverse(event.depth), Sha1::digest(event.event_id.as_bytes()).into())
}

/// From the shallowest on, the last event that each of its predecessors allows.
fn last_in_unbroken_order(
    held: &Held<'_>,
    deepest_first: &[Arc<StateEvent>],
    in_force: &InForce,
) -> Option<Arc<StateEvent>> {
    let mut authority: InForce = deepest_first
        .iter()
        .flat_map(|event| event.auth_keys(held.rules))
        .filter_map(|key| in_force.get(&key).cloned().map(|event| (key, event)))
        .collect();
    let mut shallowest_first = deepest_first.iter().rev();
    let mut winner = shallowest_first.next()?;
    for event in shallowest_first {
        authority.insert(winner.key()?, Arc::clone(winner));
        if !is_allowed(held, event, &authority) {
            break;
        }
        winner = event;
    }
    Some(Arc::clone(winner))
}

fn is_allowed(held: &Held<'_>, event: &StateEvent, in_force: &InForce) -> bool {
    let lookup = |event_type: &ruma::events::StateEventType, state_key: &str| {
        in_force.get(&(event_type.to_string(), state_key.to_owned()))
    };
    state_res::check_state_dependent_auth_rules(held.rules, event, lookup).is_ok()
}
