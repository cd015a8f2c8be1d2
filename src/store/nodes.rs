//! The nodes of a room's event graph and of its states, for walks.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    EventNode, EventNum, RoomNum, StoreError, View, keys,
    record::{Page, page_of},
};
use crate::state::map::{Node, Nodes, Ptr};

/// The most pages that a topology caches: more than one answer reads, fewer than a large room has.
const MAX_CACHED_PAGES: usize = 2_048;

/// The pages that are read ahead at first, and at most: a walk that goes on reads more at a time.
const MIN_WINDOW: u32 = 4;
const MAX_WINDOW: u32 = 16;

/// The nodes of a room's event graph. Caches the pages that it has read.
pub struct Topology<'v, V> {
    pub(super) view: &'v V,
    pub(super) room: RoomNum,
    pub(super) pages: RefCell<BTreeMap<u32, Page>>,
    /// The pages that are read ahead when the next one is read.
    pub(super) window: Cell<u32>,
}

impl<V: View> Topology<'_, V> {
    /// The node of an event; `None` if the event was purged, or its number was never given.
    pub fn node(&self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let page = page_of(event);
        if let Some(page) = self.pages.borrow().get(&page) {
            return Ok(page.get(event).cloned());
        }
        if self.view.reads_ahead() && !self.view.is_in_memory(&keys::page(self.room, page)) {
            let window = self.window.get().clamp(MIN_WINDOW, MAX_WINDOW);
            self.view.expect_pages(self.room, page, window)?;
            self.window.set(2 * window);
        }
        let read = self.view.page(self.room, page)?;
        let node = read.get(event).cloned();
        let mut pages = self.pages.borrow_mut();
        if pages.len() >= MAX_CACHED_PAGES {
            pages.clear();
        }
        pages.insert(page, read);
        Ok(node)
    }

    /// The nodes of these events are about to be read. Reads their pages ahead, if they are on several.
    pub fn expect(&self, events: &[EventNum]) -> Result<(), StoreError> {
        if !self.view.reads_ahead() || events.len() < 2 {
            return Ok(());
        }
        let held = self.pages.borrow();
        let pages = events.iter().map(|it| page_of(*it)).filter(|it| !held.contains_key(it));
        let pages: BTreeSet<u32> = pages.collect();
        if pages.len() < 2 {
            return Ok(());
        }
        self.view.expect_records(pages.into_iter().map(|it| keys::page(self.room, it)).collect())
    }
}

/// The nodes of a room's states.
pub struct StateNodes<'v, V> {
    pub(super) view: &'v V,
    pub(super) room: RoomNum,
}

impl<V: View> Nodes for StateNodes<'_, V> {
    type Error = StoreError;

    fn node(&self, at: Ptr) -> Result<Arc<Node>, StoreError> {
        self.view.state_node(self.room, at)
    }
}
