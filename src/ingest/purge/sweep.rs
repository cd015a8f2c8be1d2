//! Removing the states that nothing needs any more.

use std::collections::BTreeSet;

use crate::{
    state::map::{Node, Ptr},
    store::{EventNum, RoomNum, StateNum, Store, StoreError, View},
};

/// State records looked at between two moments in which others may write.
const AT_ONCE: usize = 1_000;

/// Removes from a room every state record of which no event's state and not the current state has
/// a node. Records that are written meanwhile stay: they share nodes with states in use only. Whether
/// the room was there to the end.
pub(super) fn sweep(store: &Store, room_id: &str, room: RoomNum) -> Result<bool, StoreError> {
    let record = store.room(room)?;
    let used = used(store, room, record.next_event)?;
    let mut after = None;
    loop {
        let Some(mut edit) = super::hold(store, room_id, room)? else { return Ok(false) };
        let states = store.state_nums(room, after, AT_ONCE)?;
        let Some(last) = states.last() else { return Ok(true) };
        after = Some(*last);
        let newer = |state: &StateNum| *state >= record.next_state;
        for state in states.iter().filter(|it| !newer(it) && !used.contains(it)) {
            edit.remove_state(*state);
        }
        edit.commit()?;
        store.flush()?;
    }
}

/// The state records that hold a node of a state in use.
fn used(
    store: &Store,
    room: RoomNum,
    next_event: EventNum,
) -> Result<BTreeSet<StateNum>, StoreError> {
    let record = store.room(room)?;
    let mut roots: BTreeSet<StateNum> = record.resolved_from.into_iter().collect();
    roots.extend(record.current_state);
    roots.extend(record.last_known);
    let topology = store.topology(room);
    for event in (0..next_event.0).map(EventNum) {
        roots.extend(topology.node(event)?.and_then(|it| it.state_after));
    }
    let mut befores = BTreeSet::new();
    for root in &roots {
        befores.extend(store.state_facts(room, *root)?.before);
    }
    roots.append(&mut befores);
    let mut seen: BTreeSet<Ptr> = BTreeSet::new();
    let mut next: Vec<Ptr> = roots.into_iter().map(StateNum::root).collect();
    while let Some(at) = next.pop() {
        if seen.insert(at)
            && let Node::Inner { children, .. } = &*store.state_node(room, at)?
        {
            next.extend(children.iter().map(|(_, child)| *child));
        }
    }
    Ok(seen.into_iter().map(|it| StateNum(it.record)).collect())
}
