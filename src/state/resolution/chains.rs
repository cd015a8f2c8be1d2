//! Walks over the graph of `auth_events`. All of them are loops, never recursion: a chain may be
//! as long as the room is old.
//!
//! A chain here includes the events it starts from, as Synapse counts it. An event that is not
//! held belongs to the chain that names it, and nothing is known behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ruma::OwnedEventId;

use super::{StateEvent, held::Held};

type Ids = BTreeSet<OwnedEventId>;

/// Everything reachable from `roots` along `auth_events`, the roots included.
///
/// Neither holds nor looks behind events that are `outside`.
pub(super) fn auth_chain(
    held: &Held<'_>,
    roots: impl IntoIterator<Item = OwnedEventId>,
    outside: &dyn Fn(&StateEvent) -> bool,
) -> Ids {
    let mut chain = Ids::new();
    let mut ahead: Vec<_> = roots.into_iter().collect();
    while let Some(id) = ahead.pop() {
        if chain.contains(&id) {
            continue;
        }
        if let Some(event) = held.get(&id) {
            if outside(&event) {
                continue;
            }
            ahead.extend(held.authorised_by(&event));
        }
        chain.insert(id);
    }
    chain
}

/// The events that are in the auth chains of some of the sets, but not of all.
pub(super) fn difference(
    held: &Held<'_>,
    sets: &[Ids],
    outside: &dyn Fn(&StateEvent) -> bool,
) -> Ids {
    let mut counts: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
    for set in sets {
        for id in auth_chain(held, set.iter().cloned(), outside) {
            *counts.entry(id).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count < sets.len()).map(|(id, _)| id).collect()
}

/// Those of the `sought` that are in the auth chain of some root. Nearest first, and no further
/// than it takes to find them all.
pub(super) fn found_behind(
    held: &Held<'_>,
    sought: &Ids,
    roots: impl IntoIterator<Item = OwnedEventId>,
) -> Ids {
    let mut found = Ids::new();
    let mut seen = Ids::new();
    let mut roots = roots.into_iter();
    let mut ahead = VecDeque::new();
    while found.len() < sought.len() {
        // Roots are taken one at a time: there may be as many as the room has members.
        let Some(id) = ahead.pop_front().or_else(|| roots.next()) else { break };
        if seen.contains(&id) {
            continue;
        }
        if let Some(event) = held.get(&id) {
            ahead.extend(held.authorised_by(&event));
        }
        if sought.contains(&id) {
            found.insert(id.clone());
        }
        seen.insert(id);
    }
    found
}

/// The conflicted state subgraph of room version 12: every event on a path along `auth_events`
/// from one conflicted event to another, both ends included.
pub(super) fn conflicted_subgraph(held: &Held<'_>, conflicted: &Ids) -> Ids {
    let reached = auth_chain(held, conflicted.iter().cloned(), &|_| false);
    let mut authorises: BTreeMap<OwnedEventId, Vec<OwnedEventId>> = BTreeMap::new();
    for id in &reached {
        let Some(event) = held.get(id) else { continue };
        for auth_id in held.authorised_by(&event) {
            authorises.entry(auth_id).or_default().push(id.clone());
        }
    }
    // All of `reached` is behind some conflicted event. Of these, keep what is also ahead of one.
    let mut subgraph = Ids::new();
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
