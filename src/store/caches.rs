//! Caches of what is on disk and hardly ever changes: states, and the bodies of events. Numbers are
//! never given twice, so an entry can only become stale when a body is written anew or removed.
//!
//! They are filled from the engine alone, never from an [`Edit`](super::Edit), whose changes may be
//! dropped.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use serde_json::Value;

use super::{Body, EventNum, RoomNum, StateFacts, StateNum, blocks::Block, record::page_of};
use crate::{num, state::map::Node};

/// The memory of parsed JSON, at worst about this many times the length of its text.
const PARSED_FACTOR: u64 = 20;
/// Facts about states that are kept, about 40 bytes each.
const FACTS: usize = 50_000;
/// The memory of a cache entry beside its value.
const OVERHEAD_BYTES: u64 = 96;
/// The memory of an entry of a leaf, or of a branch of an inner node.
const ITEM_BYTES: u64 = 32;

/// The caches of a store.
pub(super) struct Caches {
    pub(super) nodes: Cache<(RoomNum, StateNum, u32), Arc<Node>, NodeBytes>,
    pub(super) facts: Cache<(RoomNum, StateNum), StateFacts>,
    /// Bodies of events that are not in a block, uncompressed: servers that page back after an
    /// event ask for the same events one after the other.
    pub(super) bodies: Cache<(RoomNum, EventNum), Body, BodyBytes>,
    /// Blocks of bodies by page, uncompressed, for the same reason.
    pub(super) blocks: Cache<(RoomNum, u32), Arc<Block>, BlockBytes>,
    /// Parsed contents of events, as they are or redacted.
    pub(super) contents: Cache<ContentKey, Arc<Content>, ContentBytes>,
}

/// Which content of an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentKey {
    /// The room of the event.
    pub room: RoomNum,
    /// The event with the content.
    pub event: EventNum,
    /// Whether its redacted form is meant.
    pub redacted: bool,
}

/// The content of an event, parsed.
pub(super) struct Content {
    pub(super) value: Value,
    /// The length of the event's text.
    pub(super) text_bytes: usize,
}

/// Weighs nodes of states in bytes.
#[derive(Clone)]
pub(super) struct NodeBytes;

impl Weighter<(RoomNum, StateNum, u32), Arc<Node>> for NodeBytes {
    fn weight(&self, _: &(RoomNum, StateNum, u32), node: &Arc<Node>) -> u64 {
        let items = match &**node {
            Node::Leaf(entries) => entries.len(),
            Node::Inner { children, .. } => children.len(),
        };
        OVERHEAD_BYTES + ITEM_BYTES * num::u64(items)
    }
}

/// Weighs bodies of events in bytes.
#[derive(Clone)]
pub(super) struct BodyBytes;

impl Weighter<(RoomNum, EventNum), Body> for BodyBytes {
    fn weight(&self, _: &(RoomNum, EventNum), body: &Body) -> u64 {
        OVERHEAD_BYTES + num::u64(body.event_id.len() + body.pdu.len())
    }
}

/// Weighs blocks of bodies in bytes.
#[derive(Clone)]
pub(super) struct BlockBytes;

impl Weighter<(RoomNum, u32), Arc<Block>> for BlockBytes {
    fn weight(&self, _: &(RoomNum, u32), block: &Arc<Block>) -> u64 {
        OVERHEAD_BYTES + num::u64(block.memory_bytes())
    }
}

/// Weighs parsed contents in bytes.
#[derive(Clone)]
pub(super) struct ContentBytes;

impl Weighter<ContentKey, Arc<Content>> for ContentBytes {
    fn weight(&self, _: &ContentKey, content: &Arc<Content>) -> u64 {
        OVERHEAD_BYTES + PARSED_FACTOR * num::u64(content.text_bytes)
    }
}

impl Caches {
    /// Empty caches: `state_bytes` bounds the memory for states and for parsed contents (a quarter
    /// of it), `body_bytes` that for bodies.
    pub(super) fn new(state_bytes: u64, body_bytes: u64) -> Self {
        let items = |bytes: u64, each: u64| usize::try_from(bytes / each).unwrap_or(usize::MAX);
        // Bodies outside blocks are the newest events of each room, and long ones.
        let single_bytes = body_bytes / 4;
        let block_bytes = body_bytes - single_bytes;
        let content_items = items(state_bytes, 10_000);
        Self {
            nodes: Cache::with_weighter(items(state_bytes, 400), state_bytes, NodeBytes),
            facts: Cache::new(FACTS),
            bodies: Cache::with_weighter(items(single_bytes, 1_000), single_bytes, BodyBytes),
            blocks: Cache::with_weighter(items(block_bytes, 32_000), block_bytes, BlockBytes),
            contents: Cache::with_weighter(content_items, state_bytes / 4, ContentBytes),
        }
    }

    /// Forgets an event whose body was written or removed.
    pub(super) fn forget_body(&self, room: RoomNum, event: EventNum) {
        self.bodies.remove(&(room, event));
        self.blocks.remove(&(room, page_of(event)));
        for redacted in [false, true] {
            self.contents.remove(&ContentKey { room, event, redacted });
        }
    }

    /// Forgets all events of a room that is removed.
    pub(super) fn forget_bodies(&self, room: RoomNum) {
        self.bodies.retain(|(of, _), _| *of != room);
        self.blocks.retain(|(of, _), _| *of != room);
        self.contents.retain(|key, _| key.room != room);
    }
}
