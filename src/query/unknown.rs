//! Rooms whose current state is not known: which events it needs the state of.

use std::collections::{BTreeSet, VecDeque};

use crate::store::{EventNum, PrevEvent, Room, RoomNum, Store, StoreError, View};

/// Most events named of a room, and most looked at to find them.
const MAX_NAMED: usize = 10;
const MAX_LOOKED_AT: usize = 1_000;

/// While the current state of a room is not known: some of the events whose state has to come for it
/// to be known, the nearest to the forward extremities first. What only waits for the state of its
/// predecessors is not among them, as long as no more than a thousand events are waiting.
pub(super) fn state_needed(
    store: &Store,
    number: RoomNum,
    room: &Room,
) -> Result<Vec<String>, StoreError> {
    if room.current_state.is_some() {
        return Ok(Vec::new());
    }
    let topology = store.topology(number);
    let extremities = store.extremities(number, MAX_LOOKED_AT)?;
    let mut next: VecDeque<EventNum> = extremities.iter().map(|it| it.event).collect();
    let (mut seen, mut waiting, mut needed) = (BTreeSet::new(), Vec::new(), Vec::new());
    while let Some(event) = next.pop_front() {
        if needed.len() >= MAX_NAMED || seen.len() >= MAX_LOOKED_AT {
            break;
        }
        let Some(node) = topology.node(event)?.filter(|it| it.state_after.is_none()) else {
            continue;
        };
        if !seen.insert(event) {
            continue;
        }
        let mut waits = false;
        for edge in &node.prev_events {
            if let PrevEvent::Held(prev) = *edge
                && topology.node(prev)?.is_some_and(|it| it.state_after.is_none())
            {
                waits = true;
                next.push_back(prev);
            }
        }
        let has_gap = node.prev_events.contains(&PrevEvent::Missing);
        if !waits || has_gap { needed.push(event) } else { waiting.push(event) }
    }
    // A long way from what is needed: then the extremity itself.
    if needed.is_empty() {
        needed.extend(waiting.first());
    }
    needed.into_iter().map(|it| Ok(store.body(number, it)?.event_id)).collect()
}
