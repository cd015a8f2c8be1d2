//! Two ways to answer [`Conflict::in_unconflicted_chain`](super::Conflict): which of some events
//! stand in, or authorise, the entries that all state sets share.
//!
//! Both are exact. They differ in what they cost.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedEventId, room_version_rules::RoomVersionRules};

use super::{Fetch, chains::found_behind, held::Held};

/// Walks from the shared entries back to the candidates.
///
/// Needs no index, and looks up every shared entry unless all candidates turn up earlier.
pub fn found_in_chains(
    rules: &RoomVersionRules,
    candidates: &BTreeSet<OwnedEventId>,
    shared: impl IntoIterator<Item = OwnedEventId>,
    fetch: &Fetch<'_>,
) -> BTreeSet<OwnedEventId> {
    found_behind(&Held::new(rules, fetch), candidates, shared)
}

/// Walks from the candidates forward to the shared entries, along the events that cite them.
///
/// `cited_by` answers the **state** events that have an event in their `auth_events`. Candidates
/// are events that only some of the sets rest on, so little was built on them, and this takes few
/// look-ups however large the room is.
pub fn found_by_citers(
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
