//! State resolution: one state from several, for room versions 1 to 12.
//!
//! Where the history of a room forks and joins again, the event that joins it has one state per
//! predecessor. [`resolve`] makes one state of them, as every server of the room does, whatever the
//! order in which the states are given. It promises:
//!
//! - **The same result as the room's servers.** Version 1 of the algorithm (room version 1) is our
//!   own, see [`v1`]; versions 2 (rooms 2 to 11) and 2.1 (room 12) are ruma's, see [`v2`]. Where the
//!   specification is open, the result is that of Synapse, which most servers run.
//! - **It always ends, and never panics.** There is no recursion. An event that is not stored cannot
//!   win a conflict, because it cannot be verified. If a stored event names an authorising event
//!   that is not stored, it is checked as if it did not name it. [`Resolution::missing`] lists the
//!   events that were looked up and not found; if it is empty, all auth chains were complete.
//! - **The cost depends on the conflict, not on the room.** [`resolve_conflict`] is given the
//!   conflicted entries only and looks up the few others that it needs, so a merge in a room of
//!   100,000 members does not read 100,000 entries. Version 2 also follows the power levels back to
//!   the first of the room, with one look-up for each change. The reasoning is in [`v2`].

mod agreed;
mod chains;
mod event;
mod event_cache;
mod power_levels;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
};

use self::{agreed::Agreed, event_cache::EventCache};
pub use self::{
    chains::found_in_chains,
    event::{StateEvent, timestamp},
};

/// The key of an entry of the room state: its `type` and its `state_key`.
pub type StateKey = (String, String);

/// A room state: the id of the event for each entry.
pub type StateMap = BTreeMap<StateKey, OwnedEventId>;

type EventIds = BTreeSet<OwnedEventId>;

/// Looks up an event of the room; `None` for an event that is not stored or of another room.
///
/// If the look-up fails, the caller remembers the failure, returns `None`, and discards the
/// resolution.
pub type Fetch<'a> = dyn Fn(&EventId) -> Option<Arc<StateEvent>> + 'a;

/// The result of a resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The resolved entries. A conflicted entry may have no event.
    pub state: StateMap,
    /// Events that were looked up and are not stored. If there are any, servers that hold them may
    /// have resolved another state.
    pub missing: BTreeSet<OwnedEventId>,
}

/// Why states cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No states were given.
    #[error("no state sets to resolve")]
    NoStates,
    /// The algorithm met an event that it cannot read, such as a create event whose `creator` is
    /// not a user id.
    #[error("state cannot be resolved")]
    Unreadable(#[source] ruma::state_res::Error),
    /// The room version has a state resolution algorithm that this build does not know.
    #[error("unknown state resolution algorithm")]
    UnknownAlgorithm,
}

/// A conflict between state sets that share most of their entries.
pub struct Conflict<'a> {
    /// For each state set, its values of all the entries in which the sets differ (an entry that
    /// some sets lack counts as a difference). Entries that turn out equal do no harm.
    pub states: &'a [StateMap],
    /// Looks up, by type and state key, an entry that all sets share; `None` if it is empty.
    pub unconflicted: &'a dyn Fn(&str, &str) -> Option<OwnedEventId>,
    /// Returns those of some events that are shared entries, or in the auth chain of one.
    ///
    /// Needed for an exact result, but seldom called: see [`v2`]. [`found_in_chains`] is a way to
    /// answer.
    pub in_unconflicted_chain: &'a dyn Fn(&BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId>,
}

/// Resolves whole states. The cost grows with the size of the states.
pub fn resolve(
    rules: &RoomVersionRules,
    states: &[StateMap],
    fetch: &Fetch<'_>,
) -> Result<Resolution, ResolveError> {
    let Split { shared, conflicted } = split(states)?;
    let unconflicted = |event_type: &str, state_key: &str| {
        shared.get(&(event_type.to_owned(), state_key.to_owned())).cloned()
    };
    let in_unconflicted_chain = |candidates: &BTreeSet<OwnedEventId>| {
        found_in_chains(rules, candidates, shared.values().cloned(), fetch)
    };
    let conflict = Conflict {
        states: &conflicted,
        unconflicted: &unconflicted,
        in_unconflicted_chain: &in_unconflicted_chain,
    };
    let mut resolution = resolve_conflict(rules, &conflict, fetch)?;
    resolution.state.extend(shared);
    Ok(resolution)
}

/// Resolves only the entries in which the states differ.
///
/// The result has no other entries, and for these it is exactly the result of [`resolve`].
pub fn resolve_conflict(
    rules: &RoomVersionRules,
    conflict: &Conflict<'_>,
    fetch: &Fetch<'_>,
) -> Result<Resolution, ResolveError> {
    let split = split(conflict.states)?;
    let cache = EventCache::new(rules, fetch);
    let agreed = Agreed::new(conflict, &split);
    let mut state = match rules.state_res {
        StateResolutionVersion::V1 => v1::resolve(&cache, &split.conflicted, &agreed),
        StateResolutionVersion::V2(algorithm) => {
            v2::resolve(&cache, &algorithm, &split.conflicted, &agreed)?
        }
        _ => return Err(ResolveError::UnknownAlgorithm),
    };
    state.extend(split.shared);
    Ok(Resolution { state, missing: cache.missing() })
}

/// State sets, split into the shared entries and the others.
struct Split {
    /// Entries that are the same in every set.
    shared: StateMap,
    /// The other entries of each set.
    conflicted: Vec<StateMap>,
}

fn split(states: &[StateMap]) -> Result<Split, ResolveError> {
    let (first, others) = states.split_first().ok_or(ResolveError::NoStates)?;
    let shared: StateMap = first
        .iter()
        .filter(|(key, id)| others.iter().all(|state| state.get(*key) == Some(*id)))
        .map(|(key, id)| (key.clone(), id.clone()))
        .collect();
    let conflicted = states
        .iter()
        .map(|state| {
            let differs = state.iter().filter(|(key, _)| !shared.contains_key(*key));
            differs.map(|(key, id)| (key.clone(), id.clone())).collect()
        })
        .collect();
    Ok(Split { shared, conflicted })
}
