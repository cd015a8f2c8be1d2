//! Reads what is on disk, through the caches.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Body, ContentKey, EventNum, RoomNum, StateFacts, StateNum, Store, StoreError, View,
    blocks::Block,
    body,
    caches::Content,
    engine::{Ahead, Records, StoredValue},
    keys, record,
    record::page_of,
};
use crate::state::map::{Node, Ptr};

impl Store {
    /// Calls `then` with the content of an event. `parse` makes it from the event's PDU when it is
    /// not in the cache.
    ///
    /// # Errors
    /// When the body is missing or damaged, or when `parse` returns `None`.
    pub fn with_content<T>(
        &self,
        key: ContentKey,
        parse: impl FnOnce(&[u8]) -> Option<Value>,
        then: impl FnOnce(&Value) -> T,
    ) -> Result<T, StoreError> {
        let content = self.caches.contents.get_or_insert_with(&key, || {
            let body = self.body(key.room, key.event)?;
            let damaged = || StoreError::corrupt("content", body.event_id.as_bytes());
            let value = parse(&body.pdu).ok_or_else(damaged)?;
            Ok::<_, StoreError>(Arc::new(Content { value, text_bytes: body.pdu.len() }))
        })?;
        Ok(then(&content.value))
    }

    /// The block of bodies of a page; `None` if the page has none.
    pub(super) fn block(&self, room: RoomNum, page: u32) -> Result<Option<Arc<Block>>, StoreError> {
        let block = self.caches.blocks.get_or_insert_with(&(room, page), || {
            let read = self.read("block", &keys::block(room, page), Block::decode);
            read.map_err(Some)?.map(Arc::new).ok_or(None)
        });
        match block {
            Ok(block) => Ok(Some(block)),
            Err(None) => Ok(None),
            Err(Some(failure)) => Err(failure),
        }
    }

    /// Reads a node of a state. Puts all nodes of its record into the cache, if there are few, and the
    /// facts about the state.
    fn read_state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let state = StateNum(at.record);
        let key = keys::state(room, state);
        let read = self.read("state", &key, |it| record::decode_state_around(it, at.slot))?;
        let (facts, nodes) = read.ok_or_else(|| StoreError::missing("state", &key))?;
        self.caches.facts.insert((room, state), facts);
        let mut found = None;
        for (slot, node) in nodes {
            let node = Arc::new(node);
            if slot == at.slot {
                found = Some(Arc::clone(&node));
            }
            self.caches.nodes.insert((room, state, slot), node);
        }
        found.ok_or_else(|| StoreError::corrupt("state", &key))
    }
}

impl View for Store {
    fn value(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        #[cfg(test)]
        self.touched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let value = self.engine.read(key)?;
        // This is the first thing that is read of a room.
        if keys::is_room_by_name(key) {
            self.follow_sets()?;
        }
        Ok(value)
    }

    fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<StoredValue>>, StoreError> {
        #[cfg(test)]
        self.touched.fetch_add(crate::num::u64(keys.len()), std::sync::atomic::Ordering::Relaxed);
        self.engine.read_many(keys)
    }

    fn reads_ahead(&self) -> bool {
        self.engine.reads_ahead()
    }

    fn is_in_memory(&self, key: &[u8]) -> bool {
        self.engine.is_in_memory(key)
    }

    fn expect_records(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.engine.read_ahead(&Ahead { keys, prefixes: Vec::new() })
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let records = self.engine.scan(prefix, after, limit)?;
        #[cfg(test)]
        self.touched
            .fetch_add(crate::num::u64(records.len()), std::sync::atomic::Ordering::Relaxed);
        Ok(records)
    }

    fn body(&self, room: RoomNum, event: EventNum) -> Result<Body, StoreError> {
        let page = page_of(event);
        let block = self.caches.blocks.get(&(room, page));
        if let Some(body) = block.and_then(|it| it.get(event).cloned()) {
            return Ok(body);
        }
        let key = keys::body(room, event);
        // The order is important: see `blocks`.
        let single = self.caches.bodies.get_or_insert_with(&(room, event), || {
            self.read("body", &key, body::decode).map_err(Some)?.ok_or(None)
        });
        match single {
            Ok(body) => return Ok(body),
            Err(Some(failure)) => return Err(failure),
            Err(None) => {}
        }
        let missing = || StoreError::missing("body", &key);
        let block = self.block(room, page)?.ok_or_else(missing)?;
        block.get(event).cloned().ok_or_else(missing)
    }

    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let cached = self.caches.nodes.get(&(room, StateNum(at.record), at.slot));
        cached.map_or_else(|| self.read_state_node(room, at), Ok)
    }

    fn state_facts(&self, room: RoomNum, state: StateNum) -> Result<StateFacts, StoreError> {
        self.caches.facts.get_or_insert_with(&(room, state), || {
            let key = keys::state(room, state);
            let facts = self.read("state", &key, record::decode_state_facts)?;
            facts.ok_or_else(|| StoreError::missing("state", &key))
        })
    }
}
