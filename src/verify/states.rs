//! States: every record of every state can be read, every node that an event's state is made of is
//! there, and the current state's counts add up.
//!
//! A purge removes records of which no state in use has a node; what it leaves may have other nodes
//! that lead to what is gone. So nodes are followed from the states of events, not from records.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{Walk, What};
use crate::{
    pdu::Event,
    state::map::{self, Key, Membership, Node, Ptr, Value},
    store::{Edit, EventNum, Room, RoomNum, StateNum, Store, StoreError, View},
};

/// State records looked at between two moments in which others may write.
const AT_ONCE: usize = 64;
/// Events whose states are looked at likewise.
const EVENTS_AT_ONCE: u32 = 256;

impl Walk<'_> {
    /// Every state record, and every node in use.
    pub(super) fn states(&mut self) -> Result<ControlFlow<()>, StoreError> {
        // What has a number but no record was purged; that nothing needs it shows below.
        let mut last = None;
        loop {
            // Held still, so that no purge takes away what a record leads to.
            let Some(edit) = self.hold()? else { return Ok(ControlFlow::Continue(())) };
            let states = edit.state_nums(self.number, last, AT_ONCE)?;
            let Some(end) = states.last() else { break };
            last = Some(*end);
            for state in states {
                let looked = self.state(&edit, state);
                self.tolerate(looked)?;
            }
            drop(edit);
            if self.watch.pause().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if self.nodes_in_use()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // A state once written stays as it is; only a purge could remove it.
        let store = self.store;
        let _alone = store.purge_alone();
        if let Ok(Some(current)) = store.room(self.number).map(|it| it.current_state) {
            let looked = self.member_counts(current);
            self.tolerate(looked)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn state(&mut self, edit: &Edit<'_>, state: StateNum) -> Result<(), StoreError> {
        for node in self.store.state_record(self.number, state)? {
            match node {
                Node::Leaf(entries) => {
                    let beyond = |value: &Value| match value {
                        Value::Event { event, .. } => *event >= edit.room.next_event.0,
                        Value::Server { .. } => false,
                    };
                    if entries.iter().any(|(_, value)| beyond(value)) {
                        self.fault("", What::StateOfNoEvent(state.0))?;
                    }
                }
                Node::Inner { .. } => {}
            }
        }
        Ok(())
    }

    /// The nodes of the states after all events, and before them. Takes some twenty bytes a node.
    fn nodes_in_use(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let (mut seen, mut named, mut next) = (Used::default(), BTreeSet::new(), 0);
        loop {
            let Some(edit) = self.hold()? else { return Ok(ControlFlow::Continue(())) };
            let end = edit.room.next_event.0.min(next + EVENTS_AT_ONCE);
            let topology = edit.topology(self.number);
            for event in (next..end).map(EventNum) {
                let node = topology.node(event);
                let looked = node.and_then(|it| match it.and_then(|it| it.state_after) {
                    Some(state) => seen.reach(self.store, self.number, state),
                    None => Ok(()),
                });
                match looked {
                    // Many states share a node: it is named once.
                    Err(
                        StoreError::Corrupt { ref key, .. } | StoreError::Missing { ref key, .. },
                    ) if !named.insert(key.clone()) => {}
                    looked => self.tolerate(looked)?,
                }
            }
            let is_last = end >= edit.room.next_event.0;
            if is_last {
                let current = edit.room.current_state;
                for state in edit.room.resolved_from.iter().copied().chain(current) {
                    // What cannot be read is named elsewhere.
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

    /// The states that decide while the current one is not known.
    fn last_known(&mut self, room: &Room, seen: &mut Used) -> Result<(), StoreError> {
        if room.current_state.is_some() && !room.last_known.is_empty() {
            self.fault("", What::LastKnown)?;
        }
        if !seen.reach_all(self.store, self.number, &room.last_known)? {
            self.fault("", What::LastKnownLost)?;
        }
        Ok(())
    }

    /// Counts the records of which no state in use has a node. They are no fault: what was
    /// resolved over forward extremities that have gone stays until a purge.
    fn unused(&mut self, seen: &Used, next_state: StateNum) -> Result<(), StoreError> {
        let used: BTreeSet<u32> = seen.nodes.iter().map(|it| it.record).collect();
        let states = self.store.state_nums(self.number, None, usize::MAX)?;
        let unused = states.iter().filter(|it| **it < next_state && !used.contains(&it.0)).count();
        if unused > 0 {
            self.watch.unused_states(&self.room_id, u64::try_from(unused).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// The members that the current state counts for each server, counted.
    fn member_counts(&mut self, current: StateNum) -> Result<(), StoreError> {
        let nodes = self.store.states(self.number);
        let mut held = BTreeMap::new();
        let mut counted: BTreeMap<Key, (u32, u32)> = held.clone();
        for (key, value) in map::entries(&nodes, current.root(), None, usize::MAX)? {
            match value {
                Value::Server { joined, invited } => {
                    held.insert(key, (joined, invited));
                }
                Value::Event { event, membership } => {
                    let body = self.store.body(self.number, EventNum(event))?;
                    let read = Event::read(&body.pdu, self.version, &body.event_id);
                    let Ok(read) = read else { continue };
                    let (kind, state_key) = read.state_entry().unwrap_or_default();
                    if Key::of_state(kind, state_key) != key {
                        self.fault(&body.event_id, What::StateKey)?;
                    }
                    let server = state_key.split_once(':').map(|(_, server)| server);
                    let count = server.map(|it| counted.entry(Key::of_server(it)).or_default());
                    match (count, membership) {
                        (Some(count), Membership::Joined) => count.0 += 1,
                        (Some(count), Membership::Invited) => count.1 += 1,
                        _ => {}
                    }
                }
            }
        }
        counted.retain(|_, count| *count != (0, 0));
        if held != counted {
            self.fault("", What::MemberCounts)?;
        }
        Ok(())
    }
}

/// The nodes that states in use are made of: all of them were there.
#[derive(Default)]
pub(super) struct Used {
    nodes: BTreeSet<Ptr>,
    states: BTreeSet<StateNum>,
}

impl Used {
    /// As [`reach`](Self::reach), of several states: whether all of them can be read.
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

    /// Looks at every node of a state and of the one before it, but for those that were seen. When
    /// one of them cannot be read, nothing was seen.
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
