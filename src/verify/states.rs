//! Verifies states: every state record can be read, every node of a state in use is stored, and the
//! member counts of the current state are right.
//!
//! A purge removes the records that hold no node of a state in use. A record that stays may hold
//! other nodes, whose children were removed. So nodes are followed from the states of events, not
//! from records.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{FaultKind, VerifiedRoom};
use crate::{
    num,
    pdu::Event,
    state::map::{self, MapKey, Membership, Node, Ptr, Value},
    store::{Edit, EventNum, Room, RoomNum, StateNum, Store, StoreError, View},
};

/// State records that are read under one lock of the room.
const RECORDS_PER_LOCK: usize = 64;
/// Events whose states are verified under one lock of the room.
const EVENTS_PER_LOCK: u32 = 256;

impl VerifiedRoom<'_> {
    /// Verifies every state record, and every node of a state in use.
    pub(super) fn states(&mut self) -> Result<ControlFlow<()>, StoreError> {
        // A number without a record was purged. Below, every record that is needed is read.
        let mut last = None;
        loop {
            // The lock keeps a purge from removing nodes that a record refers to.
            let Some(edit) = self.lock()? else { return Ok(ControlFlow::Continue(())) };
            let states = edit.state_nums(self.number, last, RECORDS_PER_LOCK)?;
            let Some(end) = states.last() else { break };
            last = Some(*end);
            for state in states {
                let verified = self.state(&edit, state);
                self.tolerate(verified)?;
            }
            drop(edit);
            if self.watch.pause().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if self.nodes_in_use()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // A state that is written never changes; only a purge could remove it.
        let store = self.store;
        let _alone = store.purge_alone(&self.room_id)?;
        if let Ok(Some(current)) = store.room(self.number).map(|it| it.current_state) {
            let verified = self.member_counts(current);
            self.tolerate(verified)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Verifies that a state record refers to events that exist.
    fn state(&mut self, edit: &Edit<'_>, state: StateNum) -> Result<(), StoreError> {
        for node in self.store.state_record(self.number, state)? {
            match node {
                Node::Leaf(entries) => {
                    let beyond = |value: &Value| match value {
                        Value::Event { event, .. } => *event >= edit.room.next_event.0,
                        Value::Server { .. } => false,
                    };
                    if entries.iter().any(|(_, value)| beyond(value)) {
                        self.fault("", FaultKind::StateOfNoEvent(state.0))?;
                    }
                }
                Node::Inner { .. } => {}
            }
        }
        Ok(())
    }

    /// Verifies the nodes of the states after all events, and before them. Needs some twenty bytes of
    /// memory for each node.
    fn nodes_in_use(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let mut seen = UsedNodes::default();
        let mut reported = BTreeSet::new();
        let mut next = 0;
        loop {
            let Some(edit) = self.lock()? else { return Ok(ControlFlow::Continue(())) };
            let end = edit.room.next_event.0.min(next + EVENTS_PER_LOCK);
            let topology = edit.topology(self.number);
            for event in (next..end).map(EventNum) {
                let node = topology.node(event);
                let verified = node.and_then(|it| match it.and_then(|it| it.state_after) {
                    Some(state) => seen.reach(self.store, self.number, state),
                    None => Ok(()),
                });
                match verified {
                    // Many states share a node: it is reported once.
                    Err(
                        StoreError::Corrupt { ref key, .. } | StoreError::Missing { ref key, .. },
                    ) if !reported.insert(key.clone()) => {}
                    verified => self.tolerate(verified)?,
                }
            }
            let is_last = end >= edit.room.next_event.0;
            if is_last {
                let current = edit.room.current_state;
                for state in edit.room.resolved_from.iter().copied().chain(current) {
                    // A damaged record is reported elsewhere.
                    match seen.reach(self.store, self.number, state) {
                        Err(failure) if !failure.is_of_record() => return Err(failure),
                        Ok(()) | Err(_) => {}
                    }
                }
                self.last_known(&edit.room, &mut seen)?;
                self.unused(&seen, edit.room.next_state)?;
            }
            drop(edit);
            next = end;
            if self.watch.pause().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if is_last {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Verifies the states that decide about access while the current state is not known.
    fn last_known(&mut self, room: &Room, seen: &mut UsedNodes) -> Result<(), StoreError> {
        if room.current_state.is_some() && !room.last_known.is_empty() {
            self.fault("", FaultKind::LastKnownUnneeded)?;
        }
        if !seen.reach_all(self.store, self.number, &room.last_known)? {
            self.fault("", FaultKind::LastKnownLost)?;
        }
        Ok(())
    }

    /// Reports the number of records that hold no node of a state in use. They are no fault: states
    /// that were resolved over former forward extremities stay until a purge.
    fn unused(&mut self, seen: &UsedNodes, next_state: StateNum) -> Result<(), StoreError> {
        let used: BTreeSet<u32> = seen.nodes.iter().map(|it| it.record).collect();
        let states = self.store.state_nums(self.number, None, usize::MAX)?;
        let unused = states.iter().filter(|it| **it < next_state && !used.contains(&it.0)).count();
        if unused > 0 {
            self.watch.unused_states(&self.room_id, num::u64(unused));
        }
        Ok(())
    }

    /// Verifies the member counts in the current state by counting its members.
    fn member_counts(&mut self, current: StateNum) -> Result<(), StoreError> {
        let nodes = self.store.states(self.number);
        let mut recorded: BTreeMap<MapKey, (u32, u32)> = BTreeMap::new();
        let mut counted: BTreeMap<MapKey, (u32, u32)> = BTreeMap::new();
        for (key, value) in map::entries(&nodes, current.root(), None, usize::MAX)? {
            match value {
                Value::Server { joined, invited } => {
                    recorded.insert(key, (joined, invited));
                }
                Value::Event { event, membership } => {
                    let body = self.store.body(self.number, EventNum(event))?;
                    let read = Event::read(&body.pdu, self.version, &body.event_id);
                    let Ok(read) = read else { continue };
                    let (kind, state_key) = read.state_entry().unwrap_or_default();
                    if MapKey::of_state(kind, state_key) != key {
                        self.fault(&body.event_id, FaultKind::StateKeyWrong)?;
                    }
                    let server = state_key.split_once(':').map(|(_, server)| server);
                    let count = server.map(|it| counted.entry(MapKey::of_server(it)).or_default());
                    match (count, membership) {
                        (Some(count), Membership::Joined) => count.0 += 1,
                        (Some(count), Membership::Invited) => count.1 += 1,
                        _ => {}
                    }
                }
            }
        }
        counted.retain(|_, count| *count != (0, 0));
        if recorded != counted {
            self.fault("", FaultKind::MemberCountsWrong)?;
        }
        Ok(())
    }
}

/// The nodes of states in use that were read without a fault.
#[derive(Default)]
pub(super) struct UsedNodes {
    nodes: BTreeSet<Ptr>,
    states: BTreeSet<StateNum>,
}

impl UsedNodes {
    /// Does the same as [`reach`](Self::reach) for several states. Returns whether all of them can be
    /// read.
    pub(super) fn reach_all(
        &mut self,
        store: &Store,
        room: RoomNum,
        states: &[StateNum],
    ) -> Result<bool, StoreError> {
        let mut all = true;
        for state in states {
            match self.reach(store, room, *state) {
                Err(failure) if failure.is_of_record() => all = false,
                reached => reached?,
            }
        }
        Ok(all)
    }

    /// Reads every node of a state and of the state before it, unless it was read before. If one of
    /// them cannot be read, none of them counts as read.
    pub(super) fn reach(
        &mut self,
        store: &Store,
        room: RoomNum,
        state: StateNum,
    ) -> Result<(), StoreError> {
        if self.states.contains(&state) {
            return Ok(());
        }
        let before = store.state_facts(room, state)?.before;
        let mut next: Vec<Ptr> = before.into_iter().chain([state]).map(StateNum::root).collect();
        let mut fresh = BTreeSet::new();
        while let Some(at) = next.pop() {
            if !self.nodes.contains(&at)
                && fresh.insert(at)
                && let Node::Inner { children, .. } = &*store.state_node(room, at)?
            {
                next.extend(children.iter().map(|(_, child)| *child));
            }
        }
        self.nodes.extend(fresh);
        self.states.insert(state);
        Ok(())
    }
}
