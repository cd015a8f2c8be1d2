//! One room, derived again from its bodies up: ids and edges, then states, then redactions, then
//! what all of that adds up to. Each step takes only what the steps before it have made sound, and
//! writes only what is not as it should be.

use std::collections::BTreeSet;

use crate::{
    ingest::{self, Derived, Redacted},
    pdu::{Event, RoomVersion},
    state::map,
    store::{Edit, EventNum, PrevEvent, RoomNum, StateNum, Store, StoreError, View},
    verify::{
        Remedy, What,
        events::expected_redaction,
        graph::{Sums, followed, oldest_first},
        states::Used,
    },
};

/// Repairs a room none of whose faults is for a backup to restore.
pub(super) fn mend(store: &Store, room_id: &str, faults: &[&What]) -> Result<(), StoreError> {
    let Some(number) = store.room_num(room_id)? else { return Ok(()) };
    let room = store.room(number)?;
    let version =
        RoomVersion::parse(&room.room_version).map_err(|_| StoreError::version_unknown(&room))?;
    if !faults.is_empty() {
        for fault in faults {
            match fault {
                What::Stray(stray) if fault.remedy() == Remedy::Remove => {
                    store.remove_stray(stray)?;
                }
                _ => {}
            }
        }
        let room = Mending { store, number, room_id, version };
        room.next_state()?;
        room.each(|event| room.lead(event))?;
        room.each(|event| room.link(event))?;
        room.states()?;
        room.each(|event| room.note_redaction(event))?;
        room.each(|event| room.hide(event))?;
        room.count()?;
        room.current_state()?;
        ingest::settle_waiting(store, room_id)?;
    }
    ingest::sweep_states(store, room_id)
}

struct Mending<'a> {
    store: &'a Store,
    number: RoomNum,
    room_id: &'a str,
    version: RoomVersion,
}

impl<'a> Mending<'a> {
    fn edit(&self) -> Result<Edit<'a>, StoreError> {
        let edit = self.store.edit(self.room_id, None)?;
        edit.ok_or_else(|| StoreError::missing("room", self.room_id.as_bytes()))
    }

    fn each(
        &self,
        mut step: impl FnMut(EventNum) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let next_event = self.store.room(self.number)?.next_event;
        (0..next_event.0).map(EventNum).try_for_each(&mut step)
    }

    /// An event that is placed in the graph.
    fn placed(&self, edit: &Edit<'_>, event: EventNum) -> Result<Option<Event>, StoreError> {
        match edit.find_node(event)? {
            Some(node) if !node.flags.outlier => self.read(edit, event).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    fn read(&self, edit: &Edit<'_>, event: EventNum) -> Result<Event, StoreError> {
        let body = edit.body(self.number, event)?;
        Event::read(&body.pdu, self.version, &body.event_id)
            .map_err(|_| StoreError::corrupt("body", body.event_id.as_bytes()))
    }

    /// States that come would take the numbers of those that are there.
    fn next_state(&self) -> Result<(), StoreError> {
        let last = self.store.state_nums(self.number, None, usize::MAX)?.into_iter().next_back();
        let mut edit = self.edit()?;
        match last {
            Some(last) if last >= edit.room.next_state => {
                edit.room.next_state = StateNum(last.0.saturating_add(1));
                edit.commit()
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Its id, and the list of arrivals, lead to an event.
    fn lead(&self, event: EventNum) -> Result<(), StoreError> {
        let mut edit = self.edit()?;
        let Some(node) = edit.find_node(event)? else { return Ok(()) };
        let event_id = edit.body(self.number, event)?.event_id;
        let is_led = match edit.event_num(self.number, &event_id) {
            Ok(Some(other)) => {
                let is_other = other != event && edit.find_node(other)?.is_some();
                other == event || (is_other && edit.body(self.number, other)?.event_id == event_id)
            }
            // What was purged stays away.
            Ok(None) => edit.is_purged(self.number, &event_id)?,
            Err(failure) if failure.is_of_record() => false,
            Err(failure) => return Err(failure),
        };
        let is_listed = edit.is_listed(event, node.arrival)?;
        if !is_led {
            edit.lead(&event_id, event);
        }
        if !is_listed {
            edit.list_arrival(event, node.arrival);
        }
        if is_led && is_listed { Ok(()) } else { edit.commit() }
    }

    fn link(&self, event: EventNum) -> Result<(), StoreError> {
        let mut edit = self.edit()?;
        if edit.find_node(event)?.is_none() {
            return Ok(());
        }
        let read = self.read(&edit, event)?;
        if ingest::link_again(&mut edit, event, &read)? { edit.commit() } else { Ok(()) }
    }

    /// Every state, after those that it follows from.
    fn states(&self) -> Result<(), StoreError> {
        let edit = self.edit()?;
        let (order, cyclic) = oldest_first(&edit.room, &edit.topology(self.number))?;
        drop(edit);
        if !cyclic.is_empty() {
            return Ok(());
        }
        let (mut used, mut doubtful) = (Used::default(), BTreeSet::new());
        for event in order {
            if !self.state(event, &mut used, &doubtful)? {
                doubtful.insert(event);
            }
        }
        Ok(())
    }

    /// Whether the state after an event is sound now, or rightly not known.
    fn state(
        &self,
        event: EventNum,
        used: &mut Used,
        doubtful: &BTreeSet<EventNum>,
    ) -> Result<bool, StoreError> {
        let mut edit = self.edit()?;
        let Some(read) = self.placed(&edit, event)? else { return Ok(true) };
        let node = edit.node(event)?;
        let is_doubtful =
            |it: &PrevEvent| matches!(it, PrevEvent::Held(it) if doubtful.contains(it));
        if node.prev_events.iter().any(is_doubtful) {
            return Ok(false);
        }
        // The current state may be what is wrong.
        edit.room.current_state = None;
        let derived = match ingest::derive(&mut edit, event, &read) {
            Ok(Derived { state_after, .. }) => state_after,
            Err(failure) if failure.is_of_record() => return Ok(false),
            Err(failure) => return Err(failure),
        };
        match (node.state_after, derived) {
            (Some(_), None) => return Ok(false),
            (Some(held), Some(derived)) => match self.is_same(&edit, (held, derived), used) {
                Ok(true) => return Ok(true),
                Err(failure) if !failure.is_of_record() => return Err(failure),
                Ok(false) | Err(_) => {}
            },
            // What it waits for is noted again, at least.
            (None, Some(_) | None) => {}
        }
        drop(edit);
        let mut edit = self.edit()?;
        ingest::settle_again(&mut edit, event, &read)?;
        edit.commit()?;
        Ok(true)
    }

    /// Whether a state that is held is whole, and that which was derived.
    fn is_same(
        &self,
        edit: &Edit<'_>,
        (held, derived): (StateNum, StateNum),
        used: &mut Used,
    ) -> Result<bool, StoreError> {
        used.reach(self.store, self.number, held)?;
        let visibility = |it| edit.state_facts(self.number, it).map(|it| it.history_visibility);
        let nodes = edit.states(self.number);
        Ok(held == derived
            || (map::diff(&nodes, held.root(), derived.root())?.is_empty()
                && visibility(held)? == visibility(derived)?))
    }

    /// That an event redacts another.
    fn note_redaction(&self, event: EventNum) -> Result<(), StoreError> {
        let mut edit = self.edit()?;
        let Some(read) = self.placed(&edit, event)? else { return Ok(()) };
        if ingest::note_redaction_again(&mut edit, event, &read)? { edit.commit() } else { Ok(()) }
    }

    /// What is redacted is hidden. What is hidden stays so: whoever lost a redaction would show it.
    fn hide(&self, event: EventNum) -> Result<(), StoreError> {
        let edit = self.edit()?;
        let Some(read) = self.placed(&edit, event)? else { return Ok(()) };
        let mut node = edit.node(event)?;
        let derived = ingest::derive_redaction(&edit, event, read.event_id().as_str())?;
        let expected = expected_redaction(&node, &read, derived);
        if expected == Redacted::of_flags(node.flags) || !expected.is_hidden() {
            return Ok(());
        }
        node.flags.redacted = expected.redacted;
        node.flags.redaction_pending = expected.pending;
        let mut edit = edit;
        edit.put_node(event, node)?;
        edit.commit()
    }

    /// Marks, counters, extremities: one decision about the whole room.
    fn count(&self) -> Result<(), StoreError> {
        let mut edit = self.edit()?;
        let followed = followed(&edit.room, &edit.topology(self.number))?;
        for (event, followed) in (0u32..).map(EventNum).zip(followed) {
            match edit.find_node(event)? {
                Some(mut node) if !node.flags.outlier && node.flags.followed != followed => {
                    node.flags.followed = followed;
                    edit.put_node(event, node)?;
                }
                Some(_) | None => {}
            }
        }
        let sums = Sums::of(&edit.room, &edit.topology(self.number))?;
        let Sums { outliers, rejected, soft_failed, unreadable, .. } = sums;
        let Sums { listed_arrivals, last_arrival, .. } = sums;
        let room = &mut edit.room;
        (room.outliers, room.rejected, room.soft_failed) = (outliers, rejected, soft_failed);
        (room.listed_arrivals, room.purged) = (listed_arrivals, sums.purged);
        room.unreadable = unreadable;
        room.forward_extremities = u64::try_from(sums.extremities.len()).unwrap_or(u64::MAX);
        for listed in self.store.extremities(self.number, usize::MAX)? {
            edit.remove_extremity(listed);
        }
        for extremity in sums.extremities {
            edit.list_extremity(extremity);
        }
        let room = &mut edit.room;
        let next = last_arrival.map_or(0, |it| it.saturating_add(1));
        room.next_arrival = room.next_arrival.max(next);
        edit.commit()
    }

    fn current_state(&self) -> Result<(), StoreError> {
        let mut edit = self.edit()?;
        ingest::derive_current_state(&mut edit)?;
        let room = &mut edit.room;
        if !Used::default().reach_all(self.store, self.number, &room.last_known)? {
            // What is left of them would grant more than all of them.
            room.last_known.clear();
            room.known_over.clear();
        }
        edit.commit()
    }
}
