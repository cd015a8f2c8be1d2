//! The nodes of a room's graph, and those of its states, as walks ask for them.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use super::{
    EventNode, EventNum, RoomNum, StoreError, View,
    record::{Page, page_of},
};
use crate::state::map::{Node, Nodes, Ptr};

/// Pages that are remembered at most: more than one answer reads, less than a large room has.
const REMEMBERED_PAGES: usize = 2_048;

/// The nodes of a room's graph. Remembers the pages it has read.
pub struct Topology<'v, V> {
    pub(super) view: &'v V,
    pub(super) room: RoomNum,
    pub(super) pages: RefCell<BTreeMap<u32, Page>>,
}

impl<V: View> Topology<'_, V> {
    /// An event's node; nothing if there is no such event.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn node(&self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let page = page_of(event);
        if let Some(page) = self.pages.borrow().get(&page) {
            return Ok(page.get(event).cloned());
        }
        let read = self.view.page(self.room, page)?;
        let node = read.get(event).cloned();
        let mut pages = self.pages.borrow_mut();
        if pages.len() >= REMEMBERED_PAGES {
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
