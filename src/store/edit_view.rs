//! Reading through an edit: its changes, and behind them what is on disk. What is asked about an event
//! that the edit adds is not looked for on disk: nothing can be there.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Body, Edit, EventNum, RoomNum, StateNum, StoreError, View,
    engine::{Records, StoredValue},
    keys, record,
    record::Page,
};
use crate::state::map::{Node, Ptr};

impl Edit<'_> {
    /// Whether a record with this key, or records with this prefix, are about an event that this edit
    /// adds, so that the store cannot have them.
    fn is_of_new_event(&self, key: &[u8]) -> bool {
        let is_new = |(room, event)| room == self.number && event >= self.first_new;
        keys::needed_event(key).is_some_and(is_new)
    }

    /// Whether all events of a page are added by this edit.
    fn is_new_page(&self, page: u32) -> bool {
        page.saturating_mul(keys::PAGE_EVENTS) >= self.first_new.0
    }
}

impl View for Edit<'_> {
    fn value(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        if let Some(change) = self.changes.get(key) {
            return Ok(change.clone());
        }
        if self.is_of_new_event(key) {
            return Ok(None);
        }
        if !keys::is_deriving(key) {
            return self.store.value(key);
        }
        // Asked for with each event, and hardly ever there.
        if self.is_deriving.get() == Some(false) {
            return Ok(None);
        }
        let value = self.store.value(key)?;
        self.is_deriving.set(Some(value.is_some()));
        Ok(value)
    }

    fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<StoredValue>>, StoreError> {
        let is_stored =
            |key: &Vec<u8>| !self.changes.contains_key(key) && !self.is_of_new_event(key);
        let stored: Vec<Vec<u8>> = keys.iter().filter(|it| is_stored(it)).cloned().collect();
        let mut read = if stored.is_empty() {
            Vec::new().into_iter()
        } else {
            self.store.values(&stored)?.into_iter()
        };
        let value = |key: &Vec<u8>| match self.changes.get(key) {
            Some(change) => change.clone(),
            None if is_stored(key) => read.next().flatten(),
            None => None,
        };
        Ok(keys.iter().map(value).collect())
    }

    fn reads_ahead(&self) -> bool {
        self.store.reads_ahead()
    }

    fn is_in_memory(&self, key: &[u8]) -> bool {
        self.changes.contains_key(key) || self.is_of_new_event(key) || self.store.is_in_memory(key)
    }

    fn expect_records(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.store.expect_records(keys)
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let changed = || {
            let from = self.changes.range(prefix.to_vec()..);
            from.take_while(|(key, _)| key.starts_with(prefix))
        };
        // Removed records are skipped, so as many more are read.
        let removed = changed().filter(|(_, change)| change.is_none()).count();
        let enough = limit.saturating_add(removed);
        let mut records: BTreeMap<Vec<u8>, StoredValue> = if self.is_of_new_event(prefix) {
            BTreeMap::new()
        } else {
            self.store.scan(prefix, after, enough)?.into_iter().collect()
        };
        for (key, change) in changed() {
            match change {
                Some(value) if after.is_none_or(|it| key.as_slice() > it) => {
                    records.insert(key.clone(), value.clone());
                }
                Some(_) => {}
                None => {
                    records.remove(key);
                }
            }
        }
        Ok(records.into_iter().take(limit).collect())
    }

    fn body(&self, room: RoomNum, event: EventNum) -> Result<Body, StoreError> {
        match self.bodies.get(&event).filter(|_| room == self.number) {
            Some(Some(body)) => Ok(body.clone()),
            Some(None) => Err(StoreError::Bug("a body is read in the decision that removes it")),
            None => self.store.body(room, event),
        }
    }

    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let key = keys::state(room, StateNum(at.record));
        if !self.changes.contains_key(&key) {
            return self.store.state_node(room, at);
        }
        let node = self.read("state", &key, |it| record::decode_state_node(it, at.slot))?;
        node.map(Arc::new).ok_or_else(|| StoreError::missing("state", &key))
    }

    #[expect(private_interfaces, reason = "how a page is laid out stays inside the store")]
    fn page(&self, room: RoomNum, page: u32) -> Result<Page, StoreError> {
        match self.pages.get(&page) {
            Some(changed) if room == self.number => Ok(changed.clone()),
            None if room == self.number && self.is_new_page(page) => Ok(Page::default()),
            _ => self.store.page(room, page),
        }
    }
}
