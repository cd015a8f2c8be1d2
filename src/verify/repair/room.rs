//! Repairs one room from its bodies up: ids and edges, then states, then redactions, then counters
//! and flags. Each step uses only records that the steps before it have made sound, and writes only
//! records that are wrong.

use std::collections::BTreeSet;

use crate::{
    ingest::{self, Derived, Redacted},
    pdu::{Event, RoomVersion},
    state::map,
    store::{Decision, Edit, EventNum, PrevEvent, RoomNum, StateNum, Store, StoreError, View},
    verify::{
        FaultKind, Remedy,
        events::expected_redaction,
        graph::{OldestFirst, Sums, followed, oldest_first},
        states::UsedNodes,
    },
};

/// Repairs a room that has no fault with the remedy [`Remedy::Restore`].
pub(super) fn mend(store: &Store, room_id: &str, faults: &[&FaultKind]) -> Result<(), StoreError> {
    let Some(number) = store.room_num(room_id)? else { return Ok(()) };
    let room = store.room(number)?;
    let version =
        RoomVersion::parse(&room.room_version).map_err(|_| StoreError::version_unknown(&room))?;
    if !faults.is_empty() {
        for fault in faults {
            match fault {
                FaultKind::Orphan(orphan) if fault.remedy() == Remedy::Remove => {
                    store.remove_orphan(orphan)?;
                }
                _ => {}
            }
        }
        let room = RoomRepair { store, number, room_id, version };
        for fault in faults {
            match fault {
                FaultKind::ContentNotNoted(event) => room.repair(|edit| {
                    edit.note_content_due(EventNum(*event))?;
                    Ok(true)
                })?,
                FaultKind::ContentOverdue(event) => {
                    room.repair(|edit| ingest::remove_content_of(edit, EventNum(*event)))?;
                }
                _ => {}
            }
        }
        room.repair_next_state()?;
        room.each_event(|event| room.repair_id(event))?;
        room.each_event(|event| room.repair_edges(event))?;
        room.repair_states()?;
        room.each_event(|event| room.list_redaction(event))?;
        room.each_event(|event| room.hide(event))?;
        room.recount()?;
        room.repair_current_state()?;
        ingest::settle_waiting(store, room_id)?;
    }
    ingest::sweep_states(store, room_id)
}

struct RoomRepair<'a> {
    store: &'a Store,
    number: RoomNum,
    room_id: &'a str,
    version: RoomVersion,
}

/// The state after an event, compared with the state that is derived again.
enum StateCheck {
    /// The stored state is right, or rightly missing.
    Sound,
    /// The right state is not known, because a record that it follows from is wrong.
    Doubtful,
    /// The stored state is to be derived again; the event is given.
    Wrong(Event),
}

impl RoomRepair<'_> {
    /// Makes one decision about the room.
    fn decide<T>(
        &self,
        decide: impl FnMut(&mut Edit<'_>) -> Result<Decision<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let decided = self.store.decide(self.room_id, None, decide)?;
        decided.ok_or_else(|| StoreError::missing("room", self.room_id.as_bytes()))
    }

    /// Makes one decision about the room, which is committed if `repair` returns `true`.
    fn repair(
        &self,
        mut repair: impl FnMut(&mut Edit<'_>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.decide(|edit| {
            Ok(if repair(edit)? { Decision::Commit(()) } else { Decision::Discard(()) })
        })
    }

    fn each_event(
        &self,
        mut step: impl FnMut(EventNum) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let next_event = self.store.room(self.number)?.next_event;
        (0..next_event.0).map(EventNum).try_for_each(&mut step)
    }

    /// Reads an event; `None` if it is not placed in the graph.
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

    /// Makes the number of the next state greater than those of all stored states.
    fn repair_next_state(&self) -> Result<(), StoreError> {
        self.repair(|edit| {
            let states = edit.state_nums(self.number, None, usize::MAX)?;
            match states.last() {
                Some(last) if *last >= edit.room.next_state => {
                    edit.room.next_state = StateNum(last.0.saturating_add(1));
                    Ok(true)
                }
                Some(_) | None => Ok(false),
            }
        })
    }

    /// Makes the id of an event, and the list of arrivals, refer to it.
    fn repair_id(&self, event: EventNum) -> Result<(), StoreError> {
        self.repair(|edit| {
            let Some(node) = edit.find_node(event)? else { return Ok(false) };
            let event_id = edit.body(self.number, event)?.event_id;
            let is_id_right = match edit.event_num(self.number, &event_id) {
                Ok(Some(found)) => {
                    let is_other = found != event && edit.find_node(found)?.is_some();
                    found == event
                        || (is_other && edit.body(self.number, found)?.event_id == event_id)
                }
                // A purged event stays purged.
                Ok(None) => edit.is_purged(self.number, &event_id)?,
                Err(failure) if failure.is_of_record() => false,
                Err(failure) => return Err(failure),
            };
            let is_listed = edit.is_listed(event, node.arrival)?;
            if !is_id_right {
                edit.lead(&event_id, event);
            }
            if !is_listed {
                edit.list_arrival(event, node.arrival);
            }
            Ok(!is_id_right || !is_listed)
        })
    }

    fn repair_edges(&self, event: EventNum) -> Result<(), StoreError> {
        self.repair(|edit| {
            if edit.find_node(event)?.is_none() {
                return Ok(false);
            }
            let read = self.read(edit, event)?;
            ingest::link_again(edit, event, &read)
        })
    }

    /// Repairs the state after each event, behind those after its predecessors.
    fn repair_states(&self) -> Result<(), StoreError> {
        let OldestFirst { order, cyclic } = self.decide(|edit| {
            oldest_first(&edit.room, &edit.topology(self.number)).map(Decision::Discard)
        })?;
        if !cyclic.is_empty() {
            return Ok(());
        }
        let mut used = UsedNodes::default();
        let mut doubtful = BTreeSet::new();
        for event in order {
            let check = self.decide(|edit| {
                self.check_state(edit, event, &mut used, &doubtful).map(Decision::Discard)
            })?;
            match check {
                StateCheck::Sound => {}
                StateCheck::Doubtful => {
                    doubtful.insert(event);
                }
                StateCheck::Wrong(read) => self.repair(|edit| {
                    ingest::settle_again(edit, event, &read)?;
                    Ok(true)
                })?,
            }
        }
        Ok(())
    }

    /// Compares the state after an event with the state that is derived again in the edit.
    fn check_state(
        &self,
        edit: &mut Edit<'_>,
        event: EventNum,
        used: &mut UsedNodes,
        doubtful: &BTreeSet<EventNum>,
    ) -> Result<StateCheck, StoreError> {
        let Some(read) = self.placed(edit, event)? else { return Ok(StateCheck::Sound) };
        let node = edit.node(event)?;
        let is_doubtful =
            |it: &PrevEvent| matches!(it, PrevEvent::Held(it) if doubtful.contains(it));
        if node.prev_events.iter().any(is_doubtful) {
            return Ok(StateCheck::Doubtful);
        }
        // The stored current state may be wrong, so nothing is derived from it.
        edit.room.current_state = None;
        let derived = match ingest::derive(edit, event, &read) {
            Ok(Derived { state_after, .. }) => state_after,
            Err(failure) if failure.is_of_record() => return Ok(StateCheck::Doubtful),
            Err(failure) => return Err(failure),
        };
        match (node.state_after, derived) {
            (Some(_), None) => Ok(StateCheck::Doubtful),
            (Some(stored), Some(derived)) => match self.is_same(edit, stored, derived, used) {
                Ok(true) => Ok(StateCheck::Sound),
                Err(failure) if !failure.is_of_record() => Err(failure),
                Ok(false) | Err(_) => Ok(StateCheck::Wrong(read)),
            },
            // Even if the state is not known, the notes about what it waits for are written again.
            (None, Some(_) | None) => Ok(StateCheck::Wrong(read)),
        }
    }

    /// Whether a stored state is complete and equal to a derived one.
    fn is_same(
        &self,
        edit: &Edit<'_>,
        stored: StateNum,
        derived: StateNum,
        used: &mut UsedNodes,
    ) -> Result<bool, StoreError> {
        used.reach(self.store, self.number, stored)?;
        let visibility = |it| edit.state_facts(self.number, it).map(|it| it.history_visibility);
        let nodes = edit.states(self.number);
        Ok(stored == derived
            || (map::diff(&nodes, stored.root(), derived.root())?.is_empty()
                && visibility(stored)? == visibility(derived)?))
    }

    /// Lists an event as a redaction, if it is one that is not listed.
    fn list_redaction(&self, event: EventNum) -> Result<(), StoreError> {
        self.repair(|edit| match self.placed(edit, event)? {
            Some(read) => ingest::note_redaction_again(edit, event, &read),
            None => Ok(false),
        })
    }

    /// Hides an event that a redaction hides. A hidden event stays hidden: if its redaction was
    /// lost, it would be shown.
    fn hide(&self, event: EventNum) -> Result<(), StoreError> {
        self.repair(|edit| {
            let Some(read) = self.placed(edit, event)? else { return Ok(false) };
            let mut node = edit.node(event)?;
            let derived = ingest::derive_redaction(edit, event, read.event_id().as_str())?;
            let expected = expected_redaction(&node, &read, derived);
            if expected == Redacted::of_flags(node.flags) || !expected.is_hidden() {
                return Ok(false);
            }
            node.flags.redacted = expected.redacted;
            if expected.redacted {
                edit.note_content_due(event)?;
            }
            node.flags.redaction_pending = expected.pending;
            edit.put_node(event, node)?;
            Ok(true)
        })
    }

    /// Counts again: flags of followed events, counters, forward extremities. One decision about
    /// the whole room.
    fn recount(&self) -> Result<(), StoreError> {
        self.repair(|edit| {
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
            for listed in edit.extremities(self.number, usize::MAX)? {
                edit.remove_extremity(listed);
            }
            for extremity in &sums.extremities {
                edit.list_extremity(*extremity);
            }
            sums.write_to(&mut edit.room);
            Ok(true)
        })
    }

    fn repair_current_state(&self) -> Result<(), StoreError> {
        self.repair(|edit| {
            ingest::derive_current_state(edit)?;
            let last_known = &edit.room.last_known;
            if !UsedNodes::default().reach_all(self.store, self.number, last_known)? {
                // The remaining states would grant more than all of them together.
                edit.room.last_known.clear();
                edit.room.known_over.clear();
            }
            Ok(true)
        })
    }
}
