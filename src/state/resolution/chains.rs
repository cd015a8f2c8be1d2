//! Walks over the graph of `auth_events`. All of them are loops, never recursion: a chain may be
//! as long as the room is old.
//!
//! A chain here includes the events it starts from, as Synapse counts it. An event that is not
//! held belongs to the chain that names it, and nothing is known behind it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedEventId;

use super::held::Held;

type Ids = BTreeSet<OwnedEventId>;

/// Everything reachable from `roots` along `auth_events`, the roots included. Does not enter
/// `outside`.
pub(super) fn auth_chain(
    held: &Held<'_>,
    roots: impl IntoIterator<Item = OwnedEventId>,
    outside: &Ids,
) -> Ids {
    let mut chain = Ids::new();
    let mut ahead: Vec<_> = roots.into_iter().collect();
    while let Some(id) = ahead.pop() {
        if outside.contains(&id) || chain.contains(&id) {
            continue;
        }
        if let Some(event) = held.get(&id) {
            ahead.extend(held.authorised_by(&event));
        }
        chain.insert(id);
    }
    chain
}

/// The full auth chains of the conflicted events of each state set, compared.
pub(super) struct Comparison {
    /// In the chain of some sets, but not of all.
    pub(super) in_some: Ids,
    /// In the chain of every set. Whatever authorises one of these is here too.
    pub(super) in_all: Ids,
}

/// Compares the auth chains of several sets of events.
pub(super) fn compare(held: &Held<'_>, sets: &[Ids]) -> Comparison {
    let nothing = Ids::new();
    let mut counts: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
    for set in sets {
        for id in auth_chain(held, set.iter().cloned(), &nothing) {
            *counts.entry(id).or_default() += 1;
        }
    }
    let (in_all, in_some): (BTreeMap<_, _>, BTreeMap<_, _>) =
        counts.into_iter().partition(|(_, count)| *count == sets.len());
    Comparison { in_some: in_some.into_keys().collect(), in_all: in_all.into_keys().collect() }
}

/// The conflicted state subgraph of room version 12: every event on a path along `auth_events`
/// from one conflicted event to another, both ends included.
pub(super) fn conflicted_subgraph(held: &Held<'_>, conflicted: &Ids) -> Ids {
    let reached = auth_chain(held, conflicted.iter().cloned(), &Ids::new());
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
