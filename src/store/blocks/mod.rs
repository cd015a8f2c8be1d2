//! Where bodies are stored: each in a record of its own at first, and in a [`Block`] once the page
//! of the event is full.
//!
//! The batch that fills a page also packs its bodies into a block. From then on a body leaves its
//! block only when it is purged, or when a body that does not fit replaces it (a redacted form
//! always fits). So a reader that looks for the body's own record first, and for the block after
//! that, finds the body whatever is committed between the two reads.

mod block;

use std::collections::BTreeMap;

pub(super) use self::block::Block;
#[cfg(test)]
pub(super) use self::block::MAX_MEMBER;
use super::{
    Body, Edit, EventNum, RoomNum, Store, StoreError, View, body, codec::strip_checksum, keys,
    record::page_of,
};

/// Bodies that an edit writes; `None` removes the body.
pub(super) type Bodies = BTreeMap<EventNum, Option<Body>>;

impl Store {
    /// The events whose bodies are in the block of an event's page; empty if there is no such block.
    ///
    /// # Errors
    /// When the block is damaged.
    pub fn in_block_of(&self, room: RoomNum, event: EventNum) -> Result<Vec<EventNum>, StoreError> {
        let page = page_of(event);
        let block = self.read("block", &keys::block(room, page), Block::decode)?;
        Ok(block.iter().flat_map(|it| it.events(page)).collect())
    }

    /// The record on disk that contains the body of an event.
    #[cfg(test)]
    pub(crate) fn stored_body(&self, room: RoomNum, event: EventNum) -> Vec<u8> {
        let own = self.value(&keys::body(room, event)).unwrap();
        let stored = own.or_else(|| self.value(&keys::block(room, page_of(event))).unwrap());
        stored.expect("the event is held").to_vec()
    }

    /// Whether the body of an event has a record of its own.
    pub fn has_own_body(&self, room: RoomNum, event: EventNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::body(room, event))?.is_some())
    }
}

impl Edit<'_> {
    /// Puts bodies into blocks, or into records of their own.
    pub(super) fn place_bodies(&mut self, bodies: &Bodies) -> Result<(), StoreError> {
        let mut pages: BTreeMap<u32, Bodies> = BTreeMap::new();
        for (event, body) in bodies {
            pages.entry(page_of(*event)).or_default().insert(*event, body.clone());
        }
        for (page, bodies) in pages {
            let end = page.saturating_add(1).saturating_mul(keys::PAGE_EVENTS);
            if end <= self.first_new.0 {
                self.change_block(page, bodies)?;
            } else if end <= self.room.next_event.0 {
                self.pack_block(page, bodies)?;
            } else {
                bodies.into_iter().for_each(|(event, body)| self.put_own_body(event, body));
            }
        }
        Ok(())
    }

    /// Packs the bodies of a page that this edit fills.
    fn pack_block(&mut self, page: u32, mut changed: Bodies) -> Result<(), StoreError> {
        let first = page.saturating_mul(keys::PAGE_EVENTS);
        let events = (first..first.saturating_add(keys::PAGE_EVENTS)).map(EventNum);
        let unchanged: Vec<EventNum> =
            events.clone().filter(|it| !changed.contains_key(it)).collect();
        let mut held = self.own_bodies(&unchanged)?;
        let mut block = Block::default();
        for event in events {
            let (body, had_record) = match changed.remove(&event) {
                Some(body) => (body, event < self.first_new),
                None => match held.remove(&event) {
                    Some(body) => (Some(body), true),
                    None => continue,
                },
            };
            match body {
                Some(body) if Block::fits(&body) => {
                    block.put(event, body);
                    if had_record {
                        self.remove(keys::body(self.number, event));
                    }
                }
                body => self.put_own_body(event, body),
            }
        }
        self.put_block(page, &block);
        Ok(())
    }

    /// The bodies that have records of their own. A damaged one is left out: it stays where it is,
    /// and new events are not refused because of it.
    fn own_bodies(&self, events: &[EventNum]) -> Result<BTreeMap<EventNum, Body>, StoreError> {
        let keys: Vec<Vec<u8>> = events.iter().map(|it| keys::body(self.number, *it)).collect();
        let mut bodies = BTreeMap::new();
        for ((event, key), value) in events.iter().zip(&keys).zip(self.store.values(&keys)?) {
            let body = value.and_then(|it| strip_checksum(key, &it).and_then(body::decode).ok());
            bodies.extend(body.map(|it| (*event, it)));
        }
        Ok(bodies)
    }

    /// Changes bodies of a page that was full before this edit.
    fn change_block(&mut self, page: u32, bodies: Bodies) -> Result<(), StoreError> {
        let held = self.store.read("block", &keys::block(self.number, page), Block::decode)?;
        let mut block = held.unwrap_or_default();
        let mut is_changed = false;
        for (event, body) in bodies {
            match body {
                Some(body) if Block::fits(&body) && block.get(event).is_some() => {
                    block.put(event, body);
                    is_changed = true;
                }
                body => {
                    is_changed |= block.remove(event);
                    self.put_own_body(event, body);
                }
            }
        }
        if is_changed {
            self.put_block(page, &block);
        }
        Ok(())
    }

    fn put_block(&mut self, page: u32, block: &Block) {
        let key = keys::block(self.number, page);
        if block.is_empty() { self.remove(key) } else { self.put(key, block.encode()) }
    }

    fn put_own_body(&mut self, event: EventNum, body: Option<Body>) {
        let key = keys::body(self.number, event);
        match body {
            Some(Body { event_id, pdu }) => self.put(key, body::encode(&event_id, &pdu)),
            None => self.remove(key),
        }
    }
}
