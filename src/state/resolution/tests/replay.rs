//! Every recorded room, from its first event to its last: the state after each event must be the
//! one that the homeserver had, whichever way conflicts are resolved.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::StateResolutionVersion,
    state_res::{self, utils::event_id_set::EventIdSet},
};

use super::recorded::{Placed, Room, hash, rooms};
use crate::state::resolution::{
    Conflict, StateEvent, StateMap, chains, found_by_citers, found_in_chains, held::Held, resolve,
    resolve_conflict, split,
};

#[derive(Default)]
struct Count {
    events: usize,
    merges: usize,
    conflicts: usize,
    asked: Cell<usize>,
    looked_up: Cell<usize>,
}

#[test]
fn every_recorded_room_has_the_state_of_its_homeserver_after_every_event() {
    let rooms = rooms();
    if rooms.is_empty() {
        println!("no recorded rooms here: nothing was replayed");
        return;
    }
    let mut count = Count::default();
    let mut wrong = Vec::new();
    for room in &rooms {
        wrong.extend(replay(room, &mut count));
    }
    println!(
        "{} rooms, {} events compared, {} differ; {} merges, {} with a conflict, {} of these asked \
         for the chains of shared entries; {} entries looked up",
        rooms.len(),
        count.events,
        wrong.len(),
        count.merges,
        count.conflicts,
        count.asked.get(),
        count.looked_up.get(),
    );
    assert_eq!(wrong, Vec::<String>::new());
}

/// Names every event after which the state is not the homeserver's.
fn replay(room: &Room, count: &mut Count) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut after: BTreeMap<OwnedEventId, StateMap> = BTreeMap::new();
    let mut waiting: Vec<&Placed> = room.placed.iter().filter(|it| !it.outlier).collect();
    // A record is not sorted by the graph where events were back-filled.
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|placed| {
            let Some(state) = state_after(room, placed, &after, count) else { return true };
            if let Some(expected) = &placed.expected {
                count.events += 1;
                if hash(&state) != *expected {
                    wrong.push(format!("{}: {}", room.name, placed.event.event_id));
                }
            }
            after.insert(placed.event.event_id.clone(), state);
            false
        });
        assert!(waiting.len() < before, "{}: {} events hang in the air", room.name, waiting.len());
    }
    wrong
}

fn state_after(
    room: &Room,
    placed: &Placed,
    after: &BTreeMap<OwnedEventId, StateMap>,
    count: &mut Count,
) -> Option<StateMap> {
    if let Some(ids) = &placed.state_after {
        let entry = |id: &OwnedEventId| Some((room.events.get(id)?.key()?, id.clone()));
        return Some(ids.iter().map(|id| entry(id).unwrap()).collect());
    }
    let event = &placed.event;
    let previous: Option<Vec<_>> = event.prev_events.iter().map(|id| after.get(id)).collect();
    let distinct: BTreeSet<_> = previous?.into_iter().cloned().collect();
    let states: Vec<StateMap> = distinct.into_iter().collect();
    let mut state = match states.as_slice() {
        [] => StateMap::new(),
        [one] => one.clone(),
        several => merge(room, several, count),
    };
    if let (Some(key), false) = (event.key(), event.rejected) {
        state.insert(key, event.event_id.clone());
    }
    Some(state)
}

/// Resolves in every way there is; all must agree.
fn merge(room: &Room, states: &[StateMap], count: &mut Count) -> StateMap {
    count.merges += 1;
    let fetch = |id: &EventId| room.events.get(id).cloned();
    let whole = resolve(&room.rules, states, &fetch).unwrap();
    let conflicted = split(states).unwrap();
    if conflicted.conflicted.iter().any(|it| !it.is_empty()) {
        count.conflicts += 1;
    }
    assert_eq!(whole.missing, BTreeSet::new(), "{}: gaps in the auth chains", room.name);

    let backwards: Vec<_> = states.iter().rev().cloned().collect();
    assert_eq!(resolve(&room.rules, &backwards, &fetch).unwrap(), whole, "{}", room.name);

    let reduced = merge_conflict_only(room, states, count);
    assert_eq!(reduced, whole.state, "{}", room.name);
    if let Some(oracle) = merge_all_by_ruma(room, states) {
        assert_eq!(oracle, whole.state, "{}", room.name);
    }
    reduced
}

/// As a caller does who keeps large states: passes what differs, answers for the rest.
fn merge_conflict_only(room: &Room, states: &[StateMap], count: &Count) -> StateMap {
    let fetch = |id: &EventId| room.events.get(id).cloned();
    let parts = split(states).unwrap();
    let shared_ids: BTreeSet<_> = parts.shared.values().cloned().collect();
    let conflict = Conflict {
        states: &parts.conflicted,
        unconflicted: &|event_type, state_key| {
            count.looked_up.set(count.looked_up.get() + 1);
            parts.shared.get(&(event_type.to_owned(), state_key.to_owned())).cloned()
        },
        in_unconflicted_chain: &|candidates| {
            count.asked.set(count.asked.get() + 1);
            let found = found_by_citers(candidates, &|id| citers(room, id), &|id| {
                shared_ids.contains(id)
            });
            let scanned =
                found_in_chains(&room.rules, candidates, shared_ids.iter().cloned(), &fetch);
            assert_eq!(found, scanned, "{}", room.name);
            found
        },
    };
    let mut state = resolve_conflict(&room.rules, &conflict, &fetch).unwrap().state;
    state.extend(parts.shared.clone());
    state
}

fn citers(room: &Room, id: &EventId) -> Vec<OwnedEventId> {
    let cites = |event: &&Arc<StateEvent>| {
        event.state_key.is_some() && event.auth_events.iter().any(|it| it == id)
    };
    room.events.values().filter(cites).map(|event| event.event_id.clone()).collect()
}

/// ruma on whole states with whole auth chains: what the shortcuts must not change.
fn merge_all_by_ruma(room: &Room, states: &[StateMap]) -> Option<StateMap> {
    let StateResolutionVersion::V2(algorithm) = room.rules.state_res else { return None };
    let fetch = |id: &EventId| room.events.get(id).cloned();
    let held = Held::new(&room.rules.authorization, &fetch);
    let ruma_map = |state: &StateMap| -> state_res::StateMap<OwnedEventId> {
        let entry = |((event_type, state_key), id): (&(String, String), &OwnedEventId)| {
            ((StateEventType::from(event_type.as_str()), state_key.clone()), id.clone())
        };
        state.iter().map(entry).collect()
    };
    let maps: Vec<_> = states.iter().map(ruma_map).collect();
    let chain = |state: &StateMap| -> EventIdSet<OwnedEventId> {
        let chain = chains::auth_chain(&held, state.values().cloned(), &BTreeSet::new());
        chain.into_iter().collect()
    };
    let resolved = state_res::resolve(
        &room.rules.authorization,
        &algorithm,
        &maps,
        states.iter().map(chain).collect(),
        fetch,
        |conflicted| {
            let ids = conflicted.values().flatten().cloned().collect();
            Some(chains::conflicted_subgraph(&held, &ids).into_iter().collect())
        },
    );
    let resolved = resolved.unwrap().into_iter();
    Some(resolved.map(|((event_type, key), id)| ((event_type.to_string(), key), id)).collect())
}
