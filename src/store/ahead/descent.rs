//! Ways down through states, read level by level: one round trip for a level of all of them.

use std::collections::BTreeSet;

use crate::{
    state::map::{MapKey, Node, Ptr, Value},
    store::{RoomNum, StateNum, Store, StoreError, View, engine::Ahead, keys},
};

/// A way through a state to the entry of a key: the node that it has come to.
#[derive(Clone, Copy)]
pub(super) struct Path {
    at: Ptr,
    depth: usize,
    key: MapKey,
}

impl Path {
    /// The way from the root of a state.
    pub(super) fn new(state: StateNum, key: MapKey) -> Self {
        Self { at: state.root(), depth: 0, key }
    }
}

/// Where a way leads, as far as its nodes are in memory.
pub(super) enum Way {
    /// To a node that is being read.
    To(Path),
    /// To a value, or to no entry.
    End(Option<Value>),
}

/// The states of a room whose records are read ahead.
pub(super) struct Descent<'s> {
    store: &'s Store,
    room: RoomNum,
    /// Records in the engine's memory.
    arrived: BTreeSet<u32>,
    /// Records that are being read.
    asked: BTreeSet<u32>,
}

impl<'s> Descent<'s> {
    pub(super) fn new(store: &'s Store, room: RoomNum) -> Self {
        Self { store, room, arrived: BTreeSet::new(), asked: BTreeSet::new() }
    }

    /// Adds the record of a node, unless the node is in memory or is being read.
    pub(super) fn ask(&mut self, at: Ptr, ahead: &mut Ahead) {
        if !self.is_there(at) && self.asked.insert(at.record) {
            ahead.keys.push(keys::state(self.room, StateNum(at.record)));
        }
    }

    /// Notes that the records that were asked for are in the engine's memory.
    pub(super) fn arrived(&mut self) {
        self.arrived.append(&mut self.asked);
    }

    /// Whether reading a node costs no round trip.
    pub(super) fn is_there(&self, at: Ptr) -> bool {
        let key = (self.room, StateNum(at.record), at.slot);
        self.arrived.contains(&at.record) || self.store.caches.nodes.peek(&key).is_some()
    }

    /// Follows a way as far as its nodes are in memory, and adds the record of the next node.
    pub(super) fn follow(&mut self, path: Path, ahead: &mut Ahead) -> Result<Way, StoreError> {
        let Path { mut at, mut depth, key } = path;
        while self.is_there(at) {
            match &*self.store.state_node(self.room, at)? {
                Node::Leaf(entries) => {
                    let found = entries.iter().find(|(it, _)| *it == key);
                    return Ok(Way::End(found.map(|(_, value)| *value)));
                }
                Node::Inner { children, .. } => {
                    let branch = key.branch(depth);
                    let Some((_, child)) = children.iter().find(|(it, _)| *it == branch) else {
                        return Ok(Way::End(None));
                    };
                    at = *child;
                    depth += 1;
                }
            }
        }
        self.ask(at, ahead);
        Ok(Way::To(Path { at, depth, key }))
    }
}
