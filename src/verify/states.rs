//! States: every record of every state can be read and refers to nothing that is not there, and
//! the current state's counts add up.

use std::{collections::BTreeMap, ops::ControlFlow};

use super::Walk;
use crate::{
    pdu::Pdu,
    state::map::{self, Key, Membership, Node, Value},
    store::{Edit, EventNum, StateNum, StoreError, View},
};

/// State records looked at between two moments in which others may write.
const AT_ONCE: usize = 64;

impl Walk<'_> {
    /// Every state record.
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
                        self.fault("", format!("state {} names an event that is none", state.0))?;
                    }
                }
                Node::Inner { children, .. } => {
                    for (_, child) in children {
                        self.store.state_node(self.number, child)?;
                    }
                }
            }
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
                    let Ok(pdu) = Pdu::parse(&body.pdu, self.version) else { continue };
                    let (kind, state_key) = (pdu.event_type(), pdu.state_key().unwrap_or_default());
                    if Key::of_state(kind, state_key) != key {
                        self.fault(&body.event_id, "stands in the state under another's key")?;
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
            self.fault("", "the members counted beside its current state do not add up")?;
        }
        Ok(())
    }
}
