//! Which events block the current state of a room, while it is not known.

use std::collections::{BTreeSet, VecDeque};

use crate::store::{EventNum, PrevEvent, Room, RoomNum, Store, StoreError, View};

/// The most events of a room that are named.
const MAX_NAMED: usize = 10;
/// The most events that are looked at to find them.
const MAX_LOOKED_AT: usize = 1_000;

/// Finds some of the events whose state is needed before the current state of a room can be known,
/// those nearest to the forward extremities first. Empty if the current state is known.
///
/// Events that only wait for the state of their predecessors are left out, as long as no more than
/// 1,000 events are waiting.
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
    let mut seen = BTreeSet::new();
    let mut waiting = Vec::new();
    let mut needed = Vec::new();
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
    // The needed events are too far away to be found: name the nearest that waits.
    if needed.is_empty() {
        needed.extend(waiting.first());
    }
    needed.into_iter().map(|it| Ok(store.body(number, it)?.event_id)).collect()
}
