//! Writing: one decision about one room, applied at once or not at all.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use sled::IVec;

use super::{
    Body, EventNode, EventNum, Extremity, Room, RoomNum, StateFacts, StateNum, Store, StoreError,
    View,
    codec::seal,
    keys, record,
    record::Page,
    room_locks::RoomGuard,
    sealing::Bodies,
    view::{Records, number_or_gone},
};
use crate::state::map::{Node, Ptr};

/// A decision being made. Reads see what it has changed so far; the disk sees all of it, at
/// [`commit`](Self::commit), or nothing. Dropped without a commit, it has never been.
#[must_use = "nothing is written before commit"]
pub struct Edit<'s> {
    /// The room's record; written with the rest.
    pub room: Room,
    pub(super) store: &'s Store,
    pub(super) number: RoomNum,
    /// Events from here on are added by this edit.
    pub(super) first_new: EventNum,
    changes: BTreeMap<Vec<u8>, Option<IVec>>,
    pages: BTreeMap<u32, Page>,
    pub(super) has_unsettled: bool,
    seen: Seen,
    /// Whether it removes what somebody may be about to read.
    removes: bool,
    bodies: Bodies,
    /// `None` if the caller holds the lock for longer than the edit.
    _guard: Option<RoomGuard<'s>>,
}

/// What a decision about a room starts from.
pub(super) struct Start {
    pub(super) number: RoomNum,
    pub(super) room: Room,
    pub(super) seen: Seen,
}

/// The record on which a decision depends: its commit is refused if it has changed since.
pub(super) struct Seen {
    pub(super) key: Vec<u8>,
    /// `None` if there was no record.
    pub(super) value: Option<IVec>,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// Everything was applied.
    Done,
    /// Nothing was applied: the room was changed since its record was read.
    Conflict,
}

impl<'s> Edit<'s> {
    pub(super) fn new(store: &'s Store, start: Start, guard: Option<RoomGuard<'s>>) -> Self {
        let Start { number, room, seen } = start;
        let is_new = seen.value.is_none();
        let mut edit = Self {
            first_new: room.next_event,
            room,
            store,
            number,
            changes: BTreeMap::new(),
            pages: BTreeMap::new(),
            has_unsettled: false,
            seen,
            removes: false,
            bodies: Bodies::new(),
            _guard: guard,
        };
        if is_new {
            edit.put(keys::room_by_name(&edit.room.room_id), number.0.to_be_bytes().to_vec());
        }
        edit
    }

    /// The room's number.
    #[must_use]
    pub fn room_num(&self) -> RoomNum {
        self.number
    }

    /// Gives an event the room's next number.
    pub fn add_event(&mut self, event_id: &str) -> EventNum {
        let event = self.room.next_event;
        self.room.next_event = EventNum(event.0 + 1);
        self.lead(event_id, event);
        event
    }

    /// Keeps an event's body.
    pub fn put_body(&mut self, event: EventNum, event_id: &str, pdu: &[u8]) {
        let body = Body { event_id: event_id.to_owned(), pdu: Bytes::copy_from_slice(pdu) };
        self.bodies.insert(event, Some(body));
    }

    /// An event's node as it stands now.
    ///
    /// # Errors
    /// When it cannot be read, or there is none.
    pub fn node(&self, event: EventNum) -> Result<EventNode, StoreError> {
        let page = || keys::page(self.number, event.0 / keys::PAGE_EVENTS);
        self.find_node(event)?.ok_or_else(|| StoreError::missing("event", &page()))
    }

    /// An event's node as it stands now; nothing if the event was purged, or never was.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find_node(&self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let number = event.0 / keys::PAGE_EVENTS;
        Ok(match self.pages.get(&number) {
            Some(page) => page.get(event).cloned(),
            None => self.page(self.number, number)?.get(event).cloned(),
        })
    }

    /// Writes an event's node. Lists its arrival where that is not its number, and the event among
    /// the forward extremities if it is one.
    ///
    /// # Errors
    /// When its page cannot be read.
    pub fn put_node(&mut self, event: EventNum, node: EventNode) -> Result<(), StoreError> {
        let page = event.0 / keys::PAGE_EVENTS;
        if !self.pages.contains_key(&page) {
            let read = self.page(self.number, page)?;
            self.pages.insert(page, read);
        }
        let Some(changed) = self.pages.get_mut(&page) else { return Ok(()) };
        let listed = |arrival: i64| Some(arrival).filter(|it| *it != i64::from(event.0));
        let held = changed.get(event);
        let ends = [held.and_then(|it| it.extremity(event)), node.extremity(event)];
        let before = held.and_then(|it| listed(it.arrival));
        let after = listed(node.arrival);
        changed.set(event, node);
        let [end_before, end_after] = ends;
        if end_before != end_after {
            self.change_extremity(end_before, end_after);
        }
        if before != after {
            if let Some(before) = before {
                self.remove_arrival(event, before);
                self.room.listed_arrivals = self.room.listed_arrivals.saturating_sub(1);
            }
            if let Some(after) = after {
                self.list_arrival(event, after);
                self.room.listed_arrivals += 1;
            }
        }
        Ok(())
    }

    fn change_extremity(&mut self, before: Option<Extremity>, after: Option<Extremity>) {
        if let Some(before) = before {
            self.remove_extremity(before);
            self.room.forward_extremities = self.room.forward_extremities.saturating_sub(1);
        }
        if let Some(after) = after {
            self.list_extremity(after);
            self.room.forward_extremities += 1;
        }
    }

    /// Lists a forward extremity that the list leaves out.
    pub fn list_extremity(&mut self, extremity: Extremity) {
        let Extremity { event, arrival, state_after } = extremity;
        let key = keys::extremity(self.number, arrival, event);
        self.put(key, record::encode_extremity(state_after));
    }

    /// Takes a forward extremity out of the list.
    pub fn remove_extremity(&mut self, extremity: Extremity) {
        let Extremity { event, arrival, .. } = extremity;
        let key = keys::extremity(self.number, arrival, event);
        if event >= self.first_new {
            // It is only listed in this edit.
            self.changes.remove(&key);
        } else {
            self.remove(key);
        }
    }

    /// Whether an event is found where it arrived: by its number, or in the list.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn is_listed(&self, event: EventNum, arrival: i64) -> Result<bool, StoreError> {
        let key = keys::arrival(self.number, arrival, event);
        Ok(arrival == i64::from(event.0) || self.value(&key)?.is_some())
    }

    /// Lists an arrival that the list leaves out.
    pub fn list_arrival(&mut self, event: EventNum, arrival: i64) {
        self.put(keys::arrival(self.number, arrival, event), Vec::new());
    }

    /// Takes an arrival out of the list.
    pub fn remove_arrival(&mut self, event: EventNum, arrival: i64) {
        self.remove(keys::arrival(self.number, arrival, event));
    }

    /// Makes an id lead to an event that is held.
    pub fn lead(&mut self, event_id: &str, event: EventNum) {
        self.put(keys::event(self.number, event_id), event.0.to_be_bytes().to_vec());
    }

    /// Removes an event: its node, its body, the state that came with it. What is left is that it
    /// [was purged](View::is_purged).
    ///
    /// # Errors
    /// When its page cannot be read.
    pub fn purge_event(&mut self, event: EventNum, event_id: &str) -> Result<(), StoreError> {
        self.removes = true;
        let node = self.node(event)?;
        if node.arrival != i64::from(event.0) {
            self.remove_arrival(event, node.arrival);
            self.room.listed_arrivals = self.room.listed_arrivals.saturating_sub(1);
        }
        self.change_extremity(node.extremity(event), None);
        let number = event.0 / keys::PAGE_EVENTS;
        if !self.pages.contains_key(&number) {
            let read = self.page(self.number, number)?;
            self.pages.insert(number, read);
        }
        if let Some(page) = self.pages.get_mut(&number) {
            page.remove(event);
        }
        self.bodies.insert(event, None);
        self.remove_given_state(event);
        self.bury(event_id);
        self.room.purged += 1;
        Ok(())
    }

    /// Sees to it that an event never comes, or never comes back.
    pub fn bury(&mut self, event_id: &str) {
        self.put(keys::event(self.number, event_id), Vec::new());
    }

    /// As [`bury`](Self::bury), by the hash of the id: what is held is marked as purged, if it is
    /// an outlier, and otherwise left alone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bury_hash(&mut self, hash: [u8; 16]) -> Result<(), StoreError> {
        let key = keys::event_by_hash(self.number, hash);
        match self.read("event number", &key, number_or_gone)?.flatten() {
            None => self.put(key, Vec::new()),
            Some(event) => {
                let mut node = self.node(EventNum(event))?;
                node.flags.purged = node.flags.outlier;
                self.put_node(EventNum(event), node)?;
            }
        }
        Ok(())
    }

    /// The number that the next state will get.
    #[must_use]
    pub fn next_state(&self) -> StateNum {
        self.room.next_state
    }

    /// Keeps a state's own nodes under the next number.
    pub fn add_state(&mut self, facts: StateFacts, nodes: &[Node]) -> StateNum {
        let state = self.room.next_state;
        self.room.next_state = StateNum(state.0 + 1);
        self.put(keys::state(self.number, state), record::encode_state(facts, nodes));
        state
    }

    /// Removes a state that nothing refers to.
    pub fn remove_state(&mut self, state: StateNum) {
        self.removes = true;
        self.remove(keys::state(self.number, state));
    }

    /// Applies everything at once. On disk only after [`Store::flush`].
    ///
    /// # Errors
    /// When the disk fails, or what is changed is damaged; then nothing was applied.
    pub fn commit(mut self) -> Result<(), StoreError> {
        match self.apply()? {
            Commit::Done => Ok(()),
            Commit::Conflict => {
                Err(StoreError::Conflict { room_id: std::mem::take(&mut self.room.room_id) })
            }
        }
    }

    /// Applies all changes as one atomic batch.
    pub(super) fn apply(&mut self) -> Result<Commit, StoreError> {
        // The room is locked, so nothing changes between this comparison and the batch.
        if self.store.value(&self.seen.key)? != self.seen.value {
            return Ok(Commit::Conflict);
        }
        let bodies = std::mem::take(&mut self.bodies);
        self.place_bodies(&bodies)?;
        self.put(keys::room(self.number), self.room.encode());
        for (number, page) in std::mem::take(&mut self.pages) {
            let key = keys::page(self.number, number);
            if page.is_empty() { self.remove(key) } else { self.put(key, page.encode(number)) }
        }
        #[cfg(test)]
        self.store.touched.fetch_add(
            u64::try_from(self.changes.len()).unwrap_or(u64::MAX),
            std::sync::atomic::Ordering::Relaxed,
        );
        let (mut batch, mut bytes) = (sled::Batch::default(), 0);
        for (key, value) in std::mem::take(&mut self.changes) {
            bytes += key.len() + value.as_ref().map_or(0, |it| it.len());
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let apply = || self.store.write(|tree| tree.apply_batch(batch));
        match self.store.removals(&self.room.room_id).filter(|_| self.removes) {
            Some(removals) => removals.of_records.during(apply)?,
            None => apply()?,
        }
        bodies.keys().for_each(|it| self.store.caches.forget_body(self.number, *it));
        self.store.after_batch(bytes)?;
        Ok(Commit::Done)
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let sealed = seal(&key, value);
        self.changes.insert(key, Some(sealed.into()));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }
}

impl View for Edit<'_> {
    fn value(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.store.value(key),
        }
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
        // Of what is on disk, no more can be gone than was removed.
        let removed = changed().filter(|(_, change)| change.is_none()).count();
        let enough = limit.saturating_add(removed);
        let mut records: BTreeMap<Vec<u8>, IVec> =
            self.store.scan(prefix, after, enough)?.into_iter().collect();
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
            _ => self.store.page(room, page),
        }
    }
}
