//! The nodes of a room's event graph and of its states, for walks.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use super::{
    EventNode, EventNum, RoomNum, StoreError, View,
    record::{Page, page_of},
};
use crate::state::map::{Node, Nodes, Ptr};

/// The most pages that a topology caches: more than one answer reads, fewer than a large room has.
const MAX_CACHED_PAGES: usize = 2_048;

/// The nodes of a room's event graph. Caches the pages that it has read.
pub struct Topology<'v, V> {
    pub(super) view: &'v V,
    pub(super) room: RoomNum,
    pub(super) pages: RefCell<BTreeMap<u32, Page>>,
}

impl<V: View> Topology<'_, V> {
    /// The node of an event; `None` if the event was purged, or its number was never given.
    pub fn node(&self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let page = page_of(event);
        if let Some(page) = self.pages.borrow().get(&page) {
            return Ok(page.get(event).cloned());
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
