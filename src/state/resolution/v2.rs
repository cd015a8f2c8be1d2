//! State resolution version 2 (rooms 2 to 11) and 2.1 (room 12), by ruma, on the conflict alone.
//!
//! ruma expects whole states and whole auth chains. It is given less, with the same result:
//!
//! 1. **Entries.** The algorithm reads the state in two places: the iterative auth checks look at
//!    the entries that the authorisation rules need for the event at hand, and the mainline starts
//!    at the power levels. All events it checks are in the full conflicted set, so the shared
//!    entries needed are known beforehand: the power levels, and per event the sender's membership,
//!    the create event and, for a membership, the target's, the join rules, the third-party invite
//!    and the membership of the authorising user. Version 2.1 begins with an empty state and reads
//!    no shared entry at all. The last step, which lays the shared entries over the result, cannot
//!    touch a conflicted one.
//! 2. **Auth difference.** Let `K` be a set's conflicted events, `U` the shared ones, `c` the auth
//!    chain. The chain of the set is `c(K) ∪ c(U)`, and so
//!
//!    ```text
//!    ⋃(c(Kᵢ) ∪ c(U)) − ⋂(c(Kᵢ) ∪ c(U))  =  (⋃c(Kᵢ) − ⋂c(Kᵢ)) − c(U)
//!    ```
//!
//!    The walks for the first bracket stop at every shared entry that they meet. What is behind it
//!    is in `c(U)`, so it is left out anyway; and an event that is not in `c(U)` is behind no shared
//!    entry, so it is found or not found as before. Most events cite events that are still in force,
//!    so most walks end after one step instead of at the creation of the room.
//!
//!    Then the events found must be searched for in `c(U)`. Conflicted events are in the full
//!    conflicted set anyway and are left out. The cheap searches are done first: the chains of the
//!    shared entries that replaced the candidates, of the memberships of their senders, and of the
//!    entries that authorise every event. A topic that was set long ago, under older power levels,
//!    by a user who has changed the display name since, is found there. Only what is left, such as
//!    an invite that was answered within one branch, is passed to
//!    [`Conflict::in_unconflicted_chain`](super::Conflict).
//! 3. **Conflicted subgraph** (2.1). A path from one conflicted event to another lies in `⋃c(Kᵢ)`,
//!    and may lead through shared entries: here the chains are walked to their ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::StateResolutionV2Rules,
    state_res::{self, utils::event_id_set::EventIdSet},
};

use super::{
    EventIds, ResolveError, StateEvent, StateKey, StateMap,
    agreed::Agreed,
    chains::{conflicted_subgraph, difference, found_behind},
    event_cache::EventCache,
};

pub(super) fn resolve(
    cache: &EventCache<'_>,
    algorithm: &StateResolutionV2Rules,
    conflicted: &[StateMap],
    agreed: &Agreed<'_>,
) -> Result<StateMap, ResolveError> {
    let sets: Vec<EventIds> = conflicted.iter().map(|it| it.values().cloned().collect()).collect();
    let conflicted_ids: EventIds = sets.iter().flatten().cloned().collect();
    if conflicted_ids.is_empty() {
        return Ok(StateMap::new());
    }
    let difference = auth_difference(cache, &sets, &conflicted_ids, agreed);
    let subgraph = if algorithm.consider_conflicted_state_subgraph {
        conflicted_subgraph(cache, &conflicted_ids)
    } else {
        EventIds::new()
    };
    let full_conflicted_set = conflicted_ids.iter().chain(&difference).chain(&subgraph);
    let base = if algorithm.begin_iterative_auth_checks_with_empty_state_map {
        StateMap::new()
    } else {
        needed_entries(cache, full_conflicted_set, agreed)
    };

    let maps: Vec<_> = conflicted.iter().map(|state| ruma_map(state.iter().chain(&base))).collect();
    let resolved = state_res::resolve(
        cache.rules,
        algorithm,
        &maps,
        // ruma takes the events that are not in all chains. With an empty chain beside it, that is
        // the difference itself.
        vec![difference.into_iter().collect(), EventIdSet::new()],
        |id| cache.get_for_ruma(id),
        |_| Some(subgraph.iter().cloned().collect()),
    )
    .map_err(ResolveError::Unreadable)?;

    let keys: BTreeSet<_> = conflicted.iter().flat_map(BTreeMap::keys).collect();
    let resolved = resolved
        .into_iter()
        .map(|((event_type, state_key), id)| ((event_type.to_string(), state_key), id))
        .filter(|(key, _)| keys.contains(key));
    Ok(resolved.collect())
}

/// The events that are in the auth chains of some states but not of all, without the conflicted
/// events.
fn auth_difference(
    cache: &EventCache<'_>,
    sets: &[EventIds],
    conflicted: &EventIds,
    agreed: &Agreed<'_>,
) -> EventIds {
    // Events that are not stored are never honoured, so they need not be searched for.
    let candidates: Vec<Arc<StateEvent>> = difference(cache, sets, &|event| agreed.holds(event))
        .iter()
        .filter(|id| !conflicted.contains(*id))
        .filter_map(|id| cache.get(id))
        .collect();
    let mut open: EventIds = candidates.iter().map(|event| event.event_id.clone()).collect();
    if !open.is_empty() {
        let near = near_keys(&candidates).into_iter().filter_map(|key| agreed.get(&key));
        let found = found_behind(cache, &open, near);
        open.retain(|id| !found.contains(id));
    }
    if !open.is_empty() {
        agreed.retain_beyond_all_chains(cache, &mut open);
    }
    open
}

/// The entries whose chains are likely to contain the candidates: their own, their senders', and
/// those that authorise every event.
fn near_keys(candidates: &[Arc<StateEvent>]) -> BTreeSet<StateKey> {
    let of_all = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
    let mut keys: BTreeSet<StateKey> =
        of_all.into_iter().map(|it| (it.to_owned(), String::new())).collect();
    for event in candidates {
        keys.insert(("m.room.member".to_owned(), event.sender.to_string()));
        keys.extend(event.key());
    }
    keys
}

/// The shared entries that the algorithm reads: those that authorise the full conflicted set.
fn needed_entries<'e>(
    cache: &EventCache<'_>,
    full_conflicted_set: impl Iterator<Item = &'e OwnedEventId>,
    agreed: &Agreed<'_>,
) -> StateMap {
    let mut keys = BTreeSet::from([("m.room.power_levels".to_owned(), String::new())]);
    for event in full_conflicted_set.filter_map(|id| cache.get_for_ruma(id)) {
        keys.extend(event.auth_keys(cache.rules));
    }
    keys.into_iter().filter_map(|key| agreed.get(&key).map(|id| (key, id))).collect()
}

fn ruma_map<'e>(
    entries: impl Iterator<Item = (&'e StateKey, &'e OwnedEventId)>,
) -> state_res::StateMap<OwnedEventId> {
    let entries = entries.map(|((event_type, state_key), id)| {
        ((StateEventType::from(event_type.as_str()), state_key.clone()), id.clone())
    });
    entries.collect()
}
