//! Removes the state records that no state in use needs.

use std::collections::BTreeSet;

use super::Purge;
use crate::{
    state::map::{Node, Ptr},
    store::{EventNum, RoomNum, StateNum, Store, StoreError, View},
};

/// State records that are read in one decision.
const RECORDS_PER_DECISION: usize = 1_000;

impl Purge<'_> {
    /// Removes every state record of the room that holds no node of a state in use: a state after
    /// an event or before it, or the current state. Records written meanwhile stay; they share
    /// nodes with states in use only.
    ///
    /// Returns `None` if the room was deleted.
    pub(in crate::ingest) fn sweep(&self) -> Result<Option<()>, StoreError> {
        let used = |number| used(self.store, number);
        let Some(used) = self.store.read_whole(self.room, used)? else { return Ok(None) };
        let mut after = None;
        loop {
            let last = self.decide(|edit| {
                let states = edit.state_nums(edit.room_num(), after, RECORDS_PER_DECISION)?;
                let old = states.iter().filter(|it| **it < used.next_state);
                old.filter(|it| !used.records.contains(it)).for_each(|it| edit.remove_state(*it));
                Ok(states.last().copied())
            })?;
            match last {
                None => return Ok(None),
                Some(None) => return Ok(Some(())),
                Some(last) => after = last,
            }
        }
    }
}

/// The state records that hold a node of a state in use.
struct UsedRecords {
    records: BTreeSet<StateNum>,
    /// States with this number and greater ones were stored after the others were read.
    next_state: StateNum,
}

fn used(store: &Store, room: RoomNum) -> Result<UsedRecords, StoreError> {
    let record = store.room(room)?;
    let mut roots: BTreeSet<StateNum> = record.resolved_from.into_iter().collect();
    roots.extend(record.current_state);
    roots.extend(record.last_known);
    let topology = store.topology(room);
    for event in (0..record.next_event.0).map(EventNum) {
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
    let records = seen.into_iter().map(|it| StateNum(it.record)).collect();
    Ok(UsedRecords { records, next_state: record.next_state })
}
