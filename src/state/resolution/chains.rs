//! Walks along `auth_events`. All of them are loops, never recursion: a chain may be as long as the
//! room is old.
//!
//! A chain includes the events that it starts from, as in Synapse. An event that is not stored
//! belongs to the chain that names it; no events are known behind it.

use std::collections::{BTreeMap, VecDeque};

use ruma::{OwnedEventId, room_version_rules::RoomVersionRules};

use super::{EventIds, Fetch, StateEvent, event_cache::EventCache};

/// Everything reachable from `roots` along `auth_events`, the roots included.
///
/// Events for which `outside` is true are left out, and not walked through.
pub(super) fn auth_chain(
    cache: &EventCache<'_>,
    roots: impl IntoIterator<Item = OwnedEventId>,
    outside: &dyn Fn(&StateEvent) -> bool,
) -> EventIds {
    let mut chain = EventIds::new();
    let mut ahead: Vec<_> = roots.into_iter().collect();
    while let Some(id) = ahead.pop() {
        if chain.contains(&id) {
            continue;
        }
        if let Some(event) = cache.get(&id) {
            if outside(&event) {
                continue;
            }
            ahead.extend(cache.authorised_by(&event));
        }
        chain.insert(id);
    }
    chain
}

/// The events that are in the auth chains of some of the sets, but not of all.
pub(super) fn difference(
    cache: &EventCache<'_>,
    sets: &[EventIds],
    outside: &dyn Fn(&StateEvent) -> bool,
) -> EventIds {
    let mut counts: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
    for set in sets {
        for id in auth_chain(cache, set.iter().cloned(), outside) {
            *counts.entry(id).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count < sets.len()).map(|(id, _)| id).collect()
}

/// Those of the `sought` events that are in the auth chain of some root. The walk is breadth first
/// and ends when all of them are found.
pub(super) fn found_behind(
    cache: &EventCache<'_>,
    sought: &EventIds,
    roots: impl IntoIterator<Item = OwnedEventId>,
) -> EventIds {
    let mut found = EventIds::new();
    let mut seen = EventIds::new();
    let mut roots = roots.into_iter();
    let mut ahead = VecDeque::new();
    while found.len() < sought.len() {
        // Roots are taken one at a time: there may be as many as the room has members.
        let Some(id) = ahead.pop_front().or_else(|| roots.next()) else { break };
        if seen.contains(&id) {
            continue;
        }
        if let Some(event) = cache.get(&id) {
            ahead.extend(cache.authorised_by(&event));
        }
        if sought.contains(&id) {
            found.insert(id.clone());
        }
        seen.insert(id);
    }
    found
}

/// Answers [`Conflict::in_unconflicted_chain`](super::Conflict): walks from the shared entries back to
/// the candidates. Reads every shared entry unless all candidates are found earlier.
pub fn found_in_chains(
    rules: &RoomVersionRules,
    candidates: &EventIds,
    shared: impl IntoIterator<Item = OwnedEventId>,
    fetch: &Fetch<'_>,
) -> EventIds {
    found_behind(&EventCache::new(rules, fetch), candidates, shared)
}

/// The conflicted state subgraph of room version 12: every event on a path along `auth_events`
/// from one conflicted event to another, both ends included.
pub(super) fn conflicted_subgraph(cache: &EventCache<'_>, conflicted: &EventIds) -> EventIds {
    let reached = auth_chain(cache, conflicted.iter().cloned(), &|_| false);
    let mut authorises: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
    for id in &reached {
        let Some(event) = cache.get(id) else { continue };
        for auth_id in cache.authorised_by(&event) {
            authorises.entry(auth_id).or_default().push(id.clone());
        }
    }
    // All of `reached` is behind some conflicted event. Keep those that are also ahead of one.
    let mut subgraph = EventIds::new();
    let mut ahead: Vec<_> = conflicted.iter().cloned().collect();
    while let Some(id) = ahead.pop() {
        if subgraph.contains(&id) {
            continue;
        }
        ahead.extend(authorises.get(&id).into_iter().flatten().cloned());
        subgraph.insert(id);
    }
    subgraph
}
