//! Replays every recorded room: the state after each event must be the state of the homeserver,
//! whichever way conflicts are resolved.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedEventId;

use super::{
    recorded::{Placed, Room, hash, rooms},
    ways::{Tally, World, all_ways},
};
use crate::state::resolution::StateMap;

#[derive(Default)]
struct Count {
    events: usize,
    ways: Tally,
}

fn world(room: &Room) -> World<'_> {
    World { name: &room.name, rules: &room.rules, events: &room.events }
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
        "{} rooms, {} events compared, {} differ; {:?}",
        rooms.len(),
        count.events,
        wrong.len(),
        count.ways,
    );
    assert_eq!(wrong, Vec::<String>::new());
}

/// The ids of the events after which the state differs from the homeserver's.
fn replay(room: &Room, count: &mut Count) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut after: BTreeMap<OwnedEventId, StateMap> = BTreeMap::new();
    let mut waiting: Vec<&Placed> = room.placed.iter().filter(|it| !it.outlier).collect();
    // Where events were back-filled, a record is not in topological order.
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
        several => all_ways(&world(room), several, &mut count.ways),
    };
    if let (Some(key), false) = (event.key(), event.rejected) {
        state.insert(key, event.event_id.clone());
    }
    Some(state)
}
