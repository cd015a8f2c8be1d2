//! Where bodies are kept: alone as they come, and in a [`Block`] once their page of events is full.
//!
//! A page is sealed in the batch that fills it. From then on a body leaves its block only to be
//! purged, or if one that does not fit replaces it, which a redacted form never does. So whoever
//! looks for a body alone first, and in the block after that, finds it whatever is committed in
//! between.

use std::collections::BTreeMap;

use super::{Body, Edit, EventNum, RoomNum, Store, StoreError, View, block::Block, body, keys};

/// Bodies that are written, or removed.
pub(super) type Bodies = BTreeMap<EventNum, Option<Body>>;

impl Store {
    /// The events whose bodies are sealed with that of an event, if its own can be.
    ///
    /// # Errors
    /// When the block cannot be read.
    pub fn sealed_with(&self, room: RoomNum, event: EventNum) -> Result<Vec<EventNum>, StoreError> {
        let page = page_of(event);
        let block = self.read("block", &keys::block(room, page), Block::decode)?;
        Ok(block.iter().flat_map(|it| it.events(page)).collect())
    }

    /// Whether the body of an event is kept alone.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn is_alone(&self, room: RoomNum, event: EventNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::body(room, event))?.is_some())
    }
}

impl Edit<'_> {
    /// Puts the bodies that were written or removed where they belong.
    pub(super) fn place_bodies(&mut self, bodies: &Bodies) -> Result<(), StoreError> {
        let mut pages: BTreeMap<u32, Bodies> = BTreeMap::new();
        for (event, body) in bodies {
            pages.entry(page_of(*event)).or_default().insert(*event, body.clone());
        }
        for (page, bodies) in pages {
            let end = page.saturating_add(1).saturating_mul(keys::PAGE_EVENTS);
            if end <= self.first_new.0 {
                self.change_sealed(page, bodies)?;
            } else if end <= self.room.next_event.0 {
                self.seal(page, bodies)?;
            } else {
                bodies.into_iter().for_each(|(event, body)| self.place_alone(event, body));
            }
        }
        Ok(())
    }

    /// Seals a page that has just become full.
    fn seal(&mut self, page: u32, mut bodies: Bodies) -> Result<(), StoreError> {
        let mut block = Block::default();
        let first = page.saturating_mul(keys::PAGE_EVENTS);
        for event in (first..first.saturating_add(keys::PAGE_EVENTS)).map(EventNum) {
            let (body, was_alone) = match bodies.remove(&event) {
                Some(changed) => (changed, event < self.first_new),
                None => match self.body_alone(event) {
                    Ok(held) => (held, true),
                    // A damaged body stays where it is, and new ones are not refused because of it.
                    Err(StoreError::Corrupt { .. }) => continue,
                    Err(failure) => return Err(failure),
                },
            };
            match body {
                Some(body) if Block::fits(&body) => {
                    block.put(event, body);
                    if was_alone {
                        self.remove(keys::body(self.number, event));
                    }
                }
                changed => self.place_alone(event, changed),
            }
        }
        self.put_block(page, &block);
        Ok(())
    }

    fn body_alone(&self, event: EventNum) -> Result<Option<Body>, StoreError> {
        self.store.read("body", &keys::body(self.number, event), body::decode)
    }

    /// Changes bodies of a page that was full before.
    fn change_sealed(&mut self, page: u32, bodies: Bodies) -> Result<(), StoreError> {
        let held = self.store.read("block", &keys::block(self.number, page), Block::decode)?;
        let mut block = held.unwrap_or_default();
        let mut changed = false;
        for (event, body) in bodies {
            match body {
                Some(body) if Block::fits(&body) && block.get(event).is_some() => {
                    block.put(event, body);
                    changed = true;
                }
                body => {
                    changed |= block.remove(event);
                    self.place_alone(event, body);
                }
            }
        }
        if changed {
            self.put_block(page, &block);
        }
        Ok(())
    }

    fn put_block(&mut self, page: u32, block: &Block) {
        let key = keys::block(self.number, page);
        if block.is_empty() { self.remove(key) } else { self.put(key, block.encode()) }
    }

    fn place_alone(&mut self, event: EventNum, body: Option<Body>) {
        let key = keys::body(self.number, event);
        match body {
            Some(Body { event_id, pdu }) => self.put(key, body::encode(&event_id, &pdu)),
            None => self.remove(key),
        }
    }
}

/// The page that an event is in.
pub(super) fn page_of(event: EventNum) -> u32 {
    event.0 / keys::PAGE_EVENTS
}
