//! Reading what is on disk. States and bodies hardly ever change once they are written, and their
//! numbers are never given twice, so what was read of them is kept.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use serde_json::Value;
use sled::IVec;

use super::{
    Body, EventNum, RoomNum, StateFacts, StateNum, Store, StoreError, View, block::Block, body,
    keys, record, sealing::page_of, view::Records,
};
use crate::state::map::{Node, Ptr};

/// What is kept of states and bodies. Filled from the disk alone, never from an [`Edit`](super::Edit), which
/// may come to nothing.
pub(super) struct Caches {
    nodes: Cache<(RoomNum, StateNum, u32), Arc<Node>, NodeBytes>,
    facts: Cache<(RoomNum, StateNum), StateFacts>,
    /// Plain, as they are served: whoever comes back after an event asks for what others have just
    /// asked for.
    bodies: Cache<(RoomNum, EventNum), Body, BodyBytes>,
    /// Likewise, a page of events at a time.
    blocks: Cache<(RoomNum, u32), Arc<Block>, BlockBytes>,
    /// Whole, or redacted.
    contents: Cache<(RoomNum, EventNum, bool), Arc<Content>, ContentBytes>,
}

/// The content of an event, parsed.
struct Content {
    value: Value,
    /// The length of the event's text.
    text_bytes: usize,
}

/// What a text takes when it is parsed, at worst about so many times its length.
const PARSED: usize = 20;

#[derive(Clone)]
struct ContentBytes;

impl Weighter<(RoomNum, EventNum, bool), Arc<Content>> for ContentBytes {
    fn weight(&self, _: &(RoomNum, EventNum, bool), content: &Arc<Content>) -> u64 {
        let bytes = content.text_bytes.saturating_mul(PARSED);
        OVERHEAD_BYTES + u64::try_from(bytes).unwrap_or(u64::MAX / 2)
    }
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

#[derive(Clone)]
struct BodyBytes;

impl Weighter<(RoomNum, EventNum), Body> for BodyBytes {
    fn weight(&self, _: &(RoomNum, EventNum), body: &Body) -> u64 {
        let bytes = body.event_id.len() + body.pdu.len();
        OVERHEAD_BYTES + u64::try_from(bytes).unwrap_or(u64::MAX / 2)
    }
}

#[derive(Clone)]
struct BlockBytes;

impl Weighter<(RoomNum, u32), Arc<Block>> for BlockBytes {
    fn weight(&self, _: &(RoomNum, u32), block: &Arc<Block>) -> u64 {
        OVERHEAD_BYTES + u64::try_from(block.bytes()).unwrap_or(u64::MAX / 2)
    }
}

impl Caches {
    /// Caches that hold about so many bytes: of states, and of bodies.
    pub(super) fn new(of_states: u64, of_bodies: u64) -> Self {
        let items = |bytes: u64, each| usize::try_from(bytes / each).unwrap_or(usize::MAX);
        // Alone are the newest events of each room, and the long ones.
        let (alone, blocks) = (of_bodies / 4, of_bodies - of_bodies / 4);
        Self {
            nodes: Cache::with_weighter(items(of_states, 400), of_states, NodeBytes),
            facts: Cache::new(FACTS),
            bodies: Cache::with_weighter(items(alone, 1_000), alone, BodyBytes),
            blocks: Cache::with_weighter(items(blocks, 32_000), blocks, BlockBytes),
            contents: Cache::with_weighter(items(of_states, 10_000), of_states / 4, ContentBytes),
        }
    }

    /// To be told of bodies that were written or removed.
    pub(super) fn forget_body(&self, room: RoomNum, event: EventNum) {
        self.bodies.remove(&(room, event));
        self.blocks.remove(&(room, page_of(event)));
        self.contents.remove(&(room, event, false));
        self.contents.remove(&(room, event, true));
    }

    /// To be told of rooms that are removed.
    pub(super) fn forget_bodies(&self, room: RoomNum) {
        self.bodies.retain(|(of, _), _| *of != room);
        self.blocks.retain(|(of, _), _| *of != room);
        self.contents.retain(|(of, _, _), _| *of != room);
    }
}

impl Store {
    /// The content of an event, in its redacted form or not: as `parse` made it of the body when it
    /// was first asked for.
    ///
    /// # Errors
    /// When the body cannot be read, or not be parsed.
    pub fn with_content<T>(
        &self,
        (room, event, redacted): (RoomNum, EventNum, bool),
        parse: impl FnOnce(&[u8]) -> Option<Value>,
        then: impl FnOnce(&Value) -> T,
    ) -> Result<T, StoreError> {
        let content = self.caches.contents.get_or_insert_with(&(room, event, redacted), || {
            let body = self.body(room, event)?;
            let damaged = || StoreError::corrupt("content", body.event_id.as_bytes());
            let value = parse(&body.pdu).ok_or_else(damaged)?;
            Ok::<_, StoreError>(Arc::new(Content { value, text_bytes: body.pdu.len() }))
        })?;
        Ok(then(&content.value))
    }
}

impl View for Store {
    fn value(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        #[cfg(test)]
        self.touched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
            .map(|it| {
                #[cfg(test)]
                self.touched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(it.map(|(key, value)| (key.to_vec(), value))?)
            })
            .collect()
    }

    fn body(&self, room: RoomNum, event: EventNum) -> Result<Body, StoreError> {
        let page = page_of(event);
        let block = self.caches.blocks.get(&(room, page));
        if let Some(body) = block.and_then(|it| it.get(event).cloned()) {
            return Ok(body);
        }
        let key = keys::body(room, event);
        // In this order: see `sealing`.
        let alone = self.caches.bodies.get_or_insert_with(&(room, event), || {
            self.read("body", &key, body::decode).map_err(Some)?.ok_or(None)
        });
        match alone {
            Ok(body) => return Ok(body),
            Err(Some(failure)) => return Err(failure),
            Err(None) => {}
        }
        let missing = || StoreError::missing("body", &key);
        let block = self.caches.blocks.get_or_insert_with(&(room, page), || {
            let block = self.read("block", &keys::block(room, page), Block::decode)?;
            block.map(Arc::new).ok_or_else(missing)
        })?;
        block.get(event).cloned().ok_or_else(missing)
    }

    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let state = StateNum(at.record);
        self.caches.nodes.get_or_insert_with(&(room, state, at.slot), || {
            let key = keys::state(room, state);
            let node = self.read("state", &key, |it| record::decode_state_node(it, at.slot))?;
            node.map(Arc::new).ok_or_else(|| StoreError::missing("state", &key))
        })
    }

    fn state_facts(&self, room: RoomNum, state: StateNum) -> Result<StateFacts, StoreError> {
        self.caches.facts.get_or_insert_with(&(room, state), || {
            let key = keys::state(room, state);
            let facts = self.read("state", &key, record::decode_state_facts)?;
            facts.ok_or_else(|| StoreError::missing("state", &key))
        })
    }
}
