//! Reading ahead: a use case says what it is about to read, so that an engine behind a network reads
//! it in few round trips. What is not said is read when it is asked for: slower, never wrong. An
//! engine whose records are on this machine ignores all of this, and no key is built for it.

mod append;
mod descent;
mod question;

use std::collections::BTreeSet;

use self::descent::Descent;
pub use self::{append::ExpectedEvent, question::ExpectedQuestion};
use super::{
    EventNum, RoomNum, StateNum, Store, StoreError, View, engine::Ahead, keys, record::page_of,
};
use crate::state::map::{MapKey, Node};

/// The most levels of a state that are read ahead. The map of a state with a million entries has
/// fewer.
const MAX_LEVELS: usize = 8;
/// The most nodes of a state that are read ahead for a list of its entries.
const MAX_NODES: usize = 4_096;

impl Store {
    /// The ids of events of a room are about to be looked up.
    pub fn expect_ids<'i>(
        &self,
        room: RoomNum,
        event_ids: impl Iterator<Item = &'i str>,
    ) -> Result<(), StoreError> {
        if !self.reads_ahead() {
            return Ok(());
        }
        self.expect_records(event_ids.map(|it| keys::event(room, it)).collect())
    }

    /// Everything that is known about some events of a room is about to be read: nodes, bodies, given
    /// states, and what stays of removed content.
    pub fn expect_events(&self, room: RoomNum, events: &[EventNum]) -> Result<(), StoreError> {
        if !self.reads_ahead() {
            return Ok(());
        }
        let mut ahead = Ahead::default();
        self.add_bodies(room, events, &mut ahead);
        self.engine.read_ahead(&ahead)?;
        // What stays of removed content is read after the bodies, so that it is found for each body
        // from which content was removed.
        let mut ahead = Ahead::default();
        self.add_own_bodies(room, events, &mut ahead)?;
        let pages: BTreeSet<u32> = events.iter().map(|it| page_of(*it)).collect();
        ahead.keys.extend(pages.into_iter().map(|it| keys::page(room, it)));
        for event in events {
            ahead.keys.push(keys::given_state(room, *event));
            ahead.keys.push(keys::remains(room, *event));
        }
        self.engine.read_ahead(&ahead)
    }

    /// The bodies of some events of a room are about to be read.
    pub fn expect_bodies(&self, room: RoomNum, events: &[EventNum]) -> Result<(), StoreError> {
        if !self.reads_ahead() {
            return Ok(());
        }
        let mut ahead = Ahead::default();
        self.add_bodies(room, events, &mut ahead);
        self.engine.read_ahead(&ahead)?;
        self.expect_own_bodies(room, events)
    }

    /// The entries of a state behind a key are about to be listed, at most `limit` of them.
    pub fn expect_entries(
        &self,
        room: RoomNum,
        state: StateNum,
        after: Option<MapKey>,
        limit: usize,
    ) -> Result<(), StoreError> {
        if !self.reads_ahead() {
            return Ok(());
        }
        let mut descent = Descent::new(self, room);
        // Beside each node: whether keys up to `after` may be below it, which are not listed.
        let mut level = vec![(state.root(), after.is_some())];
        for depth in 0..MAX_LEVELS {
            level.truncate(limit.min(MAX_NODES));
            let mut ahead = Ahead::default();
            level.iter().for_each(|(at, _)| descent.ask(*at, &mut ahead));
            self.engine.read_ahead(&ahead)?;
            descent.arrived();
            let mut next = Vec::new();
            for (at, is_on_path) in level {
                let Node::Inner { children, .. } = &*self.state_node(room, at)? else { continue };
                let first = after.filter(|_| is_on_path).map(|it| it.branch(depth));
                let behind =
                    children.iter().filter(|(it, _)| first.is_none_or(|first| *it >= first));
                next.extend(behind.map(|(it, child)| (*child, first == Some(*it))));
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(())
    }

    /// Adds what the bodies of some events are looked for in: the block of each page, and the body's
    /// own record of one event of the page, which is looked for before the block; of a page that has
    /// no block yet, of all its events.
    fn add_bodies(&self, room: RoomNum, events: &[EventNum], ahead: &mut Ahead) {
        let mut seen = BTreeSet::new();
        for event in events {
            let page = page_of(*event);
            if self.caches.blocks.peek(&(room, page)).is_some() {
                continue;
            }
            if seen.insert(page) {
                ahead.keys.push(keys::block(room, page));
                ahead.keys.push(keys::body(room, *event));
            }
        }
    }

    /// Reads ahead the bodies of those events that are not in the blocks of their pages. The blocks
    /// were read ahead.
    fn expect_own_bodies(&self, room: RoomNum, events: &[EventNum]) -> Result<(), StoreError> {
        let mut ahead = Ahead::default();
        self.add_own_bodies(room, events, &mut ahead)?;
        self.engine.read_ahead(&ahead)
    }

    fn add_own_bodies(
        &self,
        room: RoomNum,
        events: &[EventNum],
        ahead: &mut Ahead,
    ) -> Result<(), StoreError> {
        let mut no_block = BTreeSet::new();
        for event in events {
            let page = page_of(*event);
            let is_own = no_block.contains(&page)
                || match self.block(room, page)? {
                    Some(block) => block.get(*event).is_none(),
                    None => no_block.insert(page),
                };
            if is_own && self.caches.bodies.peek(&(room, *event)).is_none() {
                ahead.keys.push(keys::body(room, *event));
            }
        }
        Ok(())
    }
}
