//! State resolution: one state from several, for room versions 1 to 12.
//!
//! Where the history of a room forks and joins again, the event that joins it has one state per
//! predecessor. [`resolve`] makes one of them, as every server of the room does, whatever the order
//! in which the states are given. It promises:
//!
//! - **The same answer as the room's servers.** Version 1 of the algorithm (room version 1) is
//!   ours, see [`v1`]; version 2 (rooms 2 to 11) and 2.1 (room 12) are ruma's, see [`v2`]. Where
//!   the specification leaves room, Synapse is followed, since it is its state that the rooms of
//!   the world have.
//! - **It always ends, and never panics.** No recursion. An event that is not held cannot win a
//!   conflict: what cannot be verified is not honoured. An event that is held but names an
//!   authorising event that is not, is judged as if it did not name it. [`Resolution::missing`]
//!   says what was looked for in vain: with an empty set, the answer rests on complete chains.
//! - **Its cost is that of the conflict, not of the room.** [`resolve_conflict`] is given the
//!   conflicted entries only and looks up the few others it needs, so that a merge in a room of
//!   100,000 members does not touch 100,000 entries. Version 2 also follows the power levels back
//!   to the room's first, one fetch for each change. The reasoning is in [`v2`].

mod agreed;
mod chains;
mod event;
mod held;
mod power_levels;
mod scan;
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

use self::{agreed::Agreed, held::Held};
pub use self::{
    event::{StateEvent, timestamp},
    scan::{found_by_citers, found_in_chains},
};

/// What an entry of the room state is found by: the `type` and the `state_key`.
pub type StateKey = (String, String);

/// A room state: the event that stands for each entry.
pub type StateMap = BTreeMap<StateKey, OwnedEventId>;

/// Looks up an event of the room; an event of another room is to be answered with `None`.
///
/// A caller whose look-up can fail notes the failure and throws the resolution away.
pub type Fetch<'a> = dyn Fn(&EventId) -> Option<Arc<StateEvent>> + 'a;

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The resolved entries. A conflicted entry may have no event at all.
    pub state: StateMap,
    /// Events that were looked for and are not held. Not empty means that other servers, which
    /// hold them, may have resolved to something else.
    pub missing: BTreeSet<OwnedEventId>,
}

/// Why there is no resolved state.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no state to choose from.
    #[error("no state sets to resolve")]
    NoStates,
    /// The algorithm met an event that it cannot read, such as a create event whose `creator` is
    /// not a user id.
    #[error("state cannot be resolved")]
    Unreadable(#[source] ruma::state_res::Error),
    /// The room version has a state resolution algorithm that is not known here.
    #[error("unknown state resolution algorithm")]
    UnknownAlgorithm,
}

/// A conflict between state sets that share most of their entries.
pub struct Conflict<'a> {
    /// For each state set, its values of all the entries in which the sets differ (an entry that
    /// some sets lack counts as a difference). Entries that turn out equal do no harm.
    pub states: &'a [StateMap],
    /// Looks up, by type and state key, an entry that all sets share.
    pub unconflicted: &'a dyn Fn(&str, &str) -> Option<OwnedEventId>,
    /// Of these events, those that stand in the shared entries or in the auth chain of one.
    ///
    /// Exactness needs it, but it is seldom called: see [`v2`]. [`found_in_chains`] and
    /// [`found_by_citers`] are two ways to answer.
    pub in_unconflicted_chain: &'a dyn Fn(&BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId>,
}

/// Resolves whole states. Costs as much as the states are large.
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
/// The answer has no other entries, and it is exactly what [`resolve`] answers for these.
pub fn resolve_conflict(
    rules: &RoomVersionRules,
    conflict: &Conflict<'_>,
    fetch: &Fetch<'_>,
) -> Result<Resolution, ResolveError> {
    let split = split(conflict.states)?;
    let held = Held::new(rules, fetch);
    let agreed = Agreed::new(conflict, &split);
    let mut state = match rules.state_res {
        StateResolutionVersion::V1 => v1::resolve(&held, &split.conflicted, &agreed),
        StateResolutionVersion::V2(algorithm) => {
            v2::resolve(&held, &algorithm, &split.conflicted, &agreed)?
        }
        _ => return Err(ResolveError::UnknownAlgorithm),
    };
    state.extend(split.shared);
    Ok(Resolution { state, missing: held.missing() })
}

/// State sets, taken apart.
struct Split {
    /// Entries that are the same in every set.
    shared: StateMap,
    /// The rest of each set.
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
