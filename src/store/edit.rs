//! The changes of one decision about one room, applied as one atomic batch or not at all.

use std::{cell::Cell, collections::BTreeMap};

use bytes::Bytes;

use super::{
    Body, EventNode, EventNum, Extremity, Room, RoomNum, StateFacts, StateNum, Store, StoreError,
    View,
    blocks::Bodies,
    codec::add_checksum,
    engine::{Changes, Commit, Effect, Seen},
    keys, record,
    record::{Page, page_of},
    room_locks::RoomGuard,
    view::number_or_gone,
};
use crate::state::map::Node;

/// The changes of a decision. Reads through it see the changes made so far. They are applied by the
/// commit of [`Store::decide`]; an edit that is dropped before changes nothing.
pub struct Edit<'s> {
    /// The record of the room, which every commit writes.
    pub room: Room,
    pub(super) store: &'s Store,
    pub(super) number: RoomNum,
    /// The first event that this edit adds; all greater ones are added by it too.
    pub(super) first_new: EventNum,
    pub(super) changes: Changes,
    pub(super) pages: BTreeMap<u32, Page>,
    pub(super) has_unsettled: bool,
    seen: Seen,
    removes: Removes,
    pub(super) bodies: Bodies,
    /// Whether the store has noted that the room is being derived again; `None` if that was not asked.
    pub(super) is_deriving: Cell<Option<bool>>,
    /// `None` if the lock is held for longer than the edit exists.
    _guard: Option<RoomGuard<'s>>,
}

/// Whether an edit removes records that someone may be about to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removes {
    Nothing,
    /// Some records of a room that stays.
    Records,
    /// The whole room, with all of its records.
    Room,
}

/// What a decision about a room starts from.
pub(super) struct Start {
    pub(super) number: RoomNum,
    pub(super) room: Room,
    pub(super) seen: Seen,
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
            changes: Changes::new(),
            pages: BTreeMap::new(),
            has_unsettled: false,
            seen,
            removes: Removes::Nothing,
            bodies: Bodies::new(),
            is_deriving: Cell::new(None),
            _guard: guard,
        };
        if is_new {
            edit.put(keys::room_by_name(&edit.room.room_id), number.0.to_be_bytes().to_vec());
        }
        edit
    }

    /// The number of the room.
    #[must_use]
    pub fn room_num(&self) -> RoomNum {
        self.number
    }

    /// The record that the edit began with.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The store of the room.
    #[must_use]
    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// Gives an event the next number of the room, and maps its id to that number.
    pub fn add_event(&mut self, event_id: &str) -> EventNum {
        let event = self.room.next_event;
        self.room.next_event = EventNum(event.0 + 1);
        self.lead(event_id, event);
        event
    }

    /// Stores or replaces the body of an event.
    pub fn put_body(&mut self, event: EventNum, event_id: &str, pdu: &[u8]) {
        let body = Body { event_id: event_id.to_owned(), pdu: Bytes::copy_from_slice(pdu) };
        self.bodies.insert(event, Some(body));
    }

    /// The node of an event, with the changes of this edit.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no node.
    pub fn node(&self, event: EventNum) -> Result<EventNode, StoreError> {
        let page = || keys::page(self.number, page_of(event));
        self.find_node(event)?.ok_or_else(|| StoreError::missing("event", &page()))
    }

    /// The node of an event, with the changes of this edit; `None` if the event was purged, or if
    /// its number was never given.
    pub fn find_node(&self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let number = page_of(event);
        Ok(match self.pages.get(&number) {
            Some(page) => page.get(event).cloned(),
            None => self.page(self.number, number)?.get(event).cloned(),
        })
    }

    /// Stores or replaces the node of an event. Keeps two lists in step with it: arrivals that
    /// differ from the event's number, and forward extremities.
    pub fn put_node(&mut self, event: EventNum, node: EventNode) -> Result<(), StoreError> {
        let page = page_of(event);
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

    /// Adds a forward extremity to the list. [`put_node`](Self::put_node) does so itself; this is for
    /// repairs.
    pub fn list_extremity(&mut self, extremity: Extremity) {
        let Extremity { event, arrival, state_after } = extremity;
        let key = keys::extremity(self.number, arrival, event);
        self.put(key, record::encode_extremity(state_after));
    }

    /// Removes a forward extremity from the list.
    pub fn remove_extremity(&mut self, extremity: Extremity) {
        let Extremity { event, arrival, .. } = extremity;
        let key = keys::extremity(self.number, arrival, event);
        if event >= self.first_new {
            // It is on the list in this edit only.
            self.changes.remove(&key);
        } else {
            self.remove(key);
        }
    }

    /// Whether an event can be found by its arrival: because its number is the same, or because it is
    /// on the list of arrivals.
    pub fn is_listed(&self, event: EventNum, arrival: i64) -> Result<bool, StoreError> {
        let key = keys::arrival(self.number, arrival, event);
        Ok(arrival == i64::from(event.0) || self.value(&key)?.is_some())
    }

    /// Adds an arrival to the list.
    pub fn list_arrival(&mut self, event: EventNum, arrival: i64) {
        self.put(keys::arrival(self.number, arrival, event), Vec::new());
    }

    /// Removes an arrival from the list.
    pub fn remove_arrival(&mut self, event: EventNum, arrival: i64) {
        self.remove(keys::arrival(self.number, arrival, event));
    }

    /// Maps an id to an event that is held.
    pub fn lead(&mut self, event_id: &str, event: EventNum) {
        self.put(keys::event(self.number, event_id), event.0.to_be_bytes().to_vec());
    }

    /// Removes an event: its node, its body, and the state that was received with it. Only its id is
    /// kept, as [purged](View::is_purged).
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the event has no node.
    pub fn purge_event(&mut self, event: EventNum, event_id: &str) -> Result<(), StoreError> {
        self.take_out(event)?;
        self.bury(event_id);
        Ok(())
    }

    /// As [`purge_event`](Self::purge_event), but its id is removed, too: it may be appended again.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the event has no node.
    pub fn remove_event(&mut self, event: EventNum, event_id: &str) -> Result<(), StoreError> {
        self.take_out(event)?;
        self.remove(keys::event(self.number, event_id));
        Ok(())
    }

    fn take_out(&mut self, event: EventNum) -> Result<(), StoreError> {
        self.removes = Removes::Records;
        let node = self.node(event)?;
        if node.arrival != i64::from(event.0) {
            self.remove_arrival(event, node.arrival);
            self.room.listed_arrivals = self.room.listed_arrivals.saturating_sub(1);
        }
        self.change_extremity(node.extremity(event), None);
        let number = page_of(event);
        if !self.pages.contains_key(&number) {
            let read = self.page(self.number, number)?;
            self.pages.insert(number, read);
        }
        if let Some(page) = self.pages.get_mut(&number) {
            page.remove(event);
        }
        self.bodies.insert(event, None);
        self.remove_given_state(event);
        self.forget_content(event);
        self.room.purged += 1;
        Ok(())
    }

    /// Makes the room refuse an event from now on, as if it had been purged.
    pub fn bury(&mut self, event_id: &str) {
        self.put(keys::event(self.number, event_id), Vec::new());
    }

    /// As [`bury`](Self::bury), by the hash of the id. An outlier that is held is marked as purged;
    /// any other event that is held is left as it is.
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

    /// The number of the next state.
    #[must_use]
    pub fn next_state(&self) -> StateNum {
        self.room.next_state
    }

    /// Stores a state, with the nodes of its map that no older state has, under the next number.
    pub fn add_state(&mut self, facts: StateFacts, nodes: &[Node]) -> StateNum {
        let state = self.room.next_state;
        self.room.next_state = StateNum(state.0 + 1);
        self.put(keys::state(self.number, state), record::encode_state(facts, nodes));
        state
    }

    /// Drops the states that this edit has stored, beginning with `first`. No event may have one.
    pub fn drop_states_from(&mut self, first: StateNum) {
        for state in first.0..self.room.next_state.0 {
            self.changes.remove(&keys::state(self.number, StateNum(state)));
        }
        self.room.next_state = first;
    }

    /// Removes a state that no event and no other state needs.
    pub fn remove_state(&mut self, state: StateNum) {
        self.removes = Removes::Records;
        self.remove(keys::state(self.number, state));
    }

    /// Deletes the room. From the commit on its id maps to no number; its records are removed by
    /// [`Store::remove_deleted`].
    pub(super) fn delete_room(&mut self) {
        self.removes = Removes::Room;
        self.put(keys::room_by_name(&self.room.room_id), Vec::new());
        self.put(keys::deleted_room(self.number), Vec::new());
    }

    /// Applies all changes of a test's edit.
    #[cfg(test)]
    pub(crate) fn commit(mut self) -> Result<(), StoreError> {
        match self.apply()? {
            Commit::Done => Ok(()),
            Commit::Conflict => {
                Err(StoreError::Conflict { room_id: std::mem::take(&mut self.room.room_id) })
            }
        }
    }

    /// Applies all changes as one atomic batch.
    pub(super) fn apply(&mut self) -> Result<Commit, StoreError> {
        let bodies = std::mem::take(&mut self.bodies);
        self.place_bodies(&bodies)?;
        let room = keys::room(self.number);
        match self.removes {
            Removes::Room => self.remove(room),
            Removes::Nothing | Removes::Records => self.put(room, self.room.encode()),
        }
        for (number, page) in std::mem::take(&mut self.pages) {
            let key = keys::page(self.number, number);
            if page.is_empty() { self.remove(key) } else { self.put(key, page.encode(number)) }
        }
        #[cfg(test)]
        self.store
            .touched
            .fetch_add(crate::num::u64(self.changes.len()), std::sync::atomic::Ordering::Relaxed);
        let changes = std::mem::take(&mut self.changes);
        let replaces = bodies.keys().any(|it| *it < self.first_new);
        let effect = match self.removes {
            Removes::Nothing if !replaces => Effect::Adds,
            Removes::Nothing | Removes::Records | Removes::Room => Effect::Replaces,
        };
        let commit = || self.store.engine.commit(Some(&self.seen), changes, effect);
        let removals = self.store.removals(&self.room.room_id);
        let commit = match self.removes {
            Removes::Nothing => commit()?,
            Removes::Records => removals.of_records.during(commit)?,
            Removes::Room => removals.of_rooms.during(commit)?,
        };
        if commit == Commit::Done {
            match self.removes {
                Removes::Room => self.store.caches.forget_bodies(self.number),
                Removes::Nothing | Removes::Records => {
                    bodies.keys().for_each(|it| self.store.caches.forget_body(self.number, *it));
                }
            }
        }
        Ok(commit)
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let value = add_checksum(&key, value);
        self.changes.insert(key, Some(value.into()));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }
}
