//! Reading what is on disk. States never change once they are written, and their numbers are never
//! given twice, so what was read of them is kept.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use sled::IVec;

use super::{RoomNum, StateFacts, StateNum, Store, StoreError, View, keys, record, view::Records};
use crate::state::map::{Node, Ptr};

/// What is kept of states. Filled from the disk alone, never from an [`Edit`](super::Edit), which
/// may come to nothing.
pub(super) struct Caches {
    nodes: Cache<(RoomNum, StateNum, u32), Arc<Node>, NodeBytes>,
    facts: Cache<(RoomNum, StateNum), StateFacts>,
}

/// Facts that are kept: about 40 bytes each.
const FACTS: usize = 50_000;
/// What an entry costs beside what it holds.
const OVERHEAD_BYTES: u64 = 96;
/// An entry of a leaf, or a branch, in memory.
const ITEM_BYTES: u64 = 32;

#[derive(Clone)]
struct NodeBytes;

impl Weighter<(RoomNum, StateNum, u32), Arc<Node>> for NodeBytes {
    fn weight(&self, _: &(RoomNum, StateNum, u32), node: &Arc<Node>) -> u64 {
        let items = match &**node {
            Node::Leaf(entries) => entries.len(),
            Node::Inner { children, .. } => children.len(),
        };
        OVERHEAD_BYTES + ITEM_BYTES * u64::try_from(items).unwrap_or(u64::MAX / ITEM_BYTES / 2)
    }
}

impl Caches {
    /// Caches that hold about so many bytes together.
    pub(super) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / 400).unwrap_or(usize::MAX);
        Self { nodes: Cache::with_weighter(items, bytes, NodeBytes), facts: Cache::new(FACTS) }
    }
}

impl View for Store {
    fn value(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        Ok(self.tree.get(key)?)
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let from = match after {
            // The smallest key behind `after` is `after` with a zero byte added.
            Some(after) => [after, &[0]].concat(),
            None => prefix.to_vec(),
        };
        self.tree
            .range(from..)
            .take_while(|it| {
                it.as_ref().is_ok_and(|(key, _)| key.starts_with(prefix)) || it.is_err()
            })
            .take(limit)
            .map(|it| Ok(it.map(|(key, value)| (key.to_vec(), value))?))
            .collect()
    }

    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let state = StateNum(at.record);
        self.caches.nodes.get_or_insert_with(&(room, state, at.slot), || {
            let key = keys::state(room, state);
            let node = self.read("state", &key, |it| record::decode_state_node(it, at.slot))?;
            node.map(Arc::new).ok_or_else(|| StoreError::corrupt("state", &key))
        })
    }

    fn state_facts(&self, room: RoomNum, state: StateNum) -> Result<StateFacts, StoreError> {
        self.caches.facts.get_or_insert_with(&(room, state), || {
            let key = keys::state(room, state);
            let facts = self.read("state", &key, record::decode_state_facts)?;
            facts.ok_or_else(|| StoreError::corrupt("state", &key))
        })
    }
}
