//! Verifies each event: its body, and everything that follows from the body or the graph.

use std::ops::ControlFlow;

use super::{FaultKind, VerifiedRoom};
use crate::{
    ingest::{self, MAX_PREV_EVENTS, Redacted},
    pdu::{Event, Pdu, id_of_unreadable},
    state::map,
    store::{
        Body, Deriving as _, Edit, EventNode, EventNum, Judged as _, PAGE_EVENTS, PrevEvent,
        StoreError, View,
    },
};

/// Events that are verified under one lock of the room.
const EVENTS_PER_LOCK: u32 = 2 * PAGE_EVENTS;

impl VerifiedRoom<'_> {
    /// Verifies every event of the room.
    pub(super) fn events(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let mut next = 0;
        loop {
            let Some(mut edit) = self.lock()? else { return Ok(ControlFlow::Continue(())) };
            let last = edit.room.next_event.0;
            let end = last.min(next + EVENTS_PER_LOCK);
            for first in (next..end).step_by(usize::try_from(PAGE_EVENTS).unwrap_or(1)) {
                let verified = self.block(&edit, EventNum(first));
                self.tolerate(verified)?;
            }
            for event in (next..end).map(EventNum) {
                let verified = self.event(&mut edit, event);
                self.tolerate(verified)?;
            }
            drop(edit);
            self.watch.events(end - next);
            next = end;
            if self.watch.pause().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if next >= last {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Verifies that the bodies in a block belong to events, and are not stored a second time.
    fn block(&mut self, edit: &Edit<'_>, first: EventNum) -> Result<(), StoreError> {
        let packed = self.store.in_block_of(self.number, first)?;
        if !packed.is_empty() && edit.room.next_event.0 < first.0.saturating_add(PAGE_EVENTS) {
            self.fault("", FaultKind::BlockTooEarly(first.0))?;
        }
        for event in packed {
            if edit.find_node(event)?.is_none() {
                self.fault("", FaultKind::NodeMissing(event.0))?;
            }
            if self.store.has_own_body(self.number, event)? {
                self.fault("", FaultKind::TwoBodies(event.0))?;
            }
        }
        Ok(())
    }

    /// Verifies one event with its body, edges and state.
    fn event(&mut self, edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
        let Some(node) = edit.find_node(event)? else {
            if self.store.has_own_body(self.number, event)? {
                self.fault("", FaultKind::NodeMissing(event.0))?;
            }
            return Ok(());
        };
        let body = self.store.body(self.number, event)?;
        let event_id = body.event_id.as_str();
        match self.store.event_num(self.number, event_id)? {
            Some(it) if it == event => {}
            Some(other) if self.is_event(other, event_id)? => {
                self.fault(event_id, FaultKind::StoredTwice(other.0, event.0))?;
            }
            Some(_) | None => self.fault(event_id, FaultKind::IdWrong)?,
        }
        let read = match Event::read(&body.pdu, self.version, event_id) {
            Ok(read) => read,
            Err(why) => {
                self.fault(event_id, FaultKind::BodyInvalid(why.to_string()))?;
                return Ok(());
            }
        };
        let room_id = match &read {
            Event::Readable(pdu) => Some(pdu.room_id().as_str().to_owned()),
            Event::Unreadable(it) => it.room_id(self.version),
        };
        match &read {
            Event::Readable(pdu) => self.readable(&node, &body, pdu)?,
            Event::Unreadable(it) if !node.flags.unreadable => {
                self.fault(event_id, FaultKind::BodyInvalid(it.why().to_string()))?;
                return Ok(());
            }
            Event::Unreadable(_) => {
                let own_id = id_of_unreadable(&body.pdu, self.version);
                if let Some(other) = own_id.filter(|it| *it != *event_id) {
                    self.fault(event_id, FaultKind::BodyOfAnother(other.to_string()))?;
                }
            }
        }
        if room_id.is_some_and(|it| it != self.room_id) {
            self.fault(event_id, FaultKind::BodyOfAnotherRoom)?;
        }
        if node.depth != read.depth() {
            self.fault(event_id, FaultKind::DepthWrong)?;
        }
        if !edit.is_listed(event, node.arrival)? {
            self.fault(event_id, FaultKind::ArrivalNotListed)?;
        }
        self.content(edit, event, &node, &read)?;
        if !node.flags.outlier {
            self.edges(edit, event, &node, &read)?;
            if !edit.is_deriving(self.number)? {
                self.derived(edit, event, &node, &read)?;
            }
        }
        Ok(())
    }

    /// Verifies the body of a readable event.
    fn readable(&mut self, node: &EventNode, body: &Body, pdu: &Pdu) -> Result<(), StoreError> {
        let event_id = body.event_id.as_str();
        if node.flags.unreadable {
            self.fault(event_id, FaultKind::ReadableNow)?;
        }
        if *pdu.event_id() != *event_id {
            self.fault(event_id, FaultKind::BodyOfAnother(pdu.event_id().to_string()))?;
        }
        let redacted = || pdu.redacted().is_ok_and(|it| it.bytes_as_received() == body.pdu);
        if !pdu.content_hash_matches() && !redacted() {
            self.fault(event_id, FaultKind::BodyUnhashed)?;
        }
        Ok(())
    }

    /// Whether a number belongs to an event id.
    fn is_event(&self, event: EventNum, event_id: &str) -> Result<bool, StoreError> {
        match self.store.body(self.number, event) {
            Ok(body) => Ok(body.event_id == event_id),
            // Reported with the other event.
            Err(failure) if failure.is_of_record() => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Verifies edges against the body, and gaps against the notes of missing events.
    fn edges(
        &mut self,
        edit: &Edit<'_>,
        event: EventNum,
        node: &EventNode,
        read: &Event,
    ) -> Result<(), StoreError> {
        let event_id = read.event_id().as_str();
        // Older builds have stored more edges than the limit.
        if node.prev_events.len() < read.prev_events().len().min(MAX_PREV_EVENTS + 1) {
            self.fault(event_id, FaultKind::EdgesMissing)?;
        }
        let linked = read.prev_events().iter().take(MAX_PREV_EVENTS);
        for (position, (edge, prev)) in (0u32..).zip(node.prev_events.iter().zip(linked)) {
            let held = edit.event_num(self.number, prev.as_str())?;
            let placed = match held {
                // An id that refers to no event is reported with all other records.
                Some(held) => edit.find_node(held)?.is_some_and(|it| !it.flags.outlier),
                None => false,
            };
            match (edge, held.filter(|_| placed)) {
                (PrevEvent::Held(edge), Some(held)) if *edge == held => {}
                (PrevEvent::Missing, None) if prev == read.event_id() => {}
                (PrevEvent::Missing, None) => {
                    let noted = edit.index_of_missing(self.number, prev.as_str(), event)?;
                    if noted != Some(position) {
                        self.fault(event_id, FaultKind::GapNotNoted(prev.to_string()))?;
                    }
                }
                (PrevEvent::Held(_), _) => {
                    self.fault(event_id, FaultKind::EdgeWrong(prev.to_string()))?;
                }
                (PrevEvent::Missing, Some(held))
                    if prev != read.event_id() && !edit.is_unsettled(self.number, held)? =>
                {
                    self.fault(event_id, FaultKind::EdgeCut(prev.to_string()))?;
                }
                (PrevEvent::Missing, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Verifies what follows from the graph: redactions and the state after the event.
    fn derived(
        &mut self,
        edit: &mut Edit<'_>,
        event: EventNum,
        node: &EventNode,
        read: &Event,
    ) -> Result<(), StoreError> {
        let event_id = read.event_id().as_str();
        let derived = ingest::derive(edit, event, read)?;
        if let Some(target) = read.redacts()
            && !node.flags.rejected
            && !is_listed(edit, event, target.as_str())?
        {
            self.fault(event_id, FaultKind::RedactionNotListed(target.to_string()))?;
        }
        let expected = expected_redaction(node, read, derived.redacted);
        if expected != Redacted::of_flags(node.flags) {
            let what = if expected.is_hidden() {
                FaultKind::RedactionWrong
            } else {
                FaultKind::HiddenByNone
            };
            self.fault(event_id, what)?;
        }
        match (node.state_after, derived.state_after) {
            (Some(held), Some(derived)) => {
                let nodes = edit.states(self.number);
                if held != derived && !map::diff(&nodes, held.root(), derived.root())?.is_empty() {
                    self.fault(event_id, FaultKind::StateWrong)?;
                }
                let facts = |state| edit.state_facts(self.number, state);
                if facts(held)?.history_visibility != facts(derived)?.history_visibility {
                    self.fault(event_id, FaultKind::VisibilityWrong)?;
                }
            }
            (None, Some(_)) if !edit.is_unsettled(self.number, event)? => {
                self.fault(event_id, FaultKind::StateMissing)?;
            }
            (Some(_), None) => {
                self.fault(event_id, FaultKind::StateUnfounded)?;
            }
            (None, Some(_) | None) => {}
        }
        Ok(())
    }
}

/// Whether a redaction is listed as one of its target.
fn is_listed(edit: &Edit<'_>, redaction: EventNum, target_id: &str) -> Result<bool, StoreError> {
    Ok(edit.judgement(edit.room_num(), target_id, redaction)?.is_some())
}

/// The redaction flags that an event should have, given the flags derived from the redactions that
/// are stored.
pub(super) fn expected_redaction(node: &EventNode, read: &Event, derived: Redacted) -> Redacted {
    // If a redaction was purged, its target is stored in the redacted form only.
    let is_stripped = || {
        let Some(pdu) = read.pdu() else { return false };
        let redacted = pdu.redacted();
        redacted.is_ok_and(|it| it.bytes_as_received() == pdu.bytes_as_received())
    };
    let redacted = derived.redacted || (node.flags.redacted && is_stripped());
    Redacted { redacted, ..derived }
}
