//! One event after another: what its body says against what is kept of it.

use std::ops::ControlFlow;

use super::{Walk, What};
use crate::{
    ingest::{self, MAX_PREV_EVENTS, Redacted},
    pdu::{Event, Pdu, id_of_unreadable},
    state::map,
    store::{
        Body, Edit, EventNode, EventNum, Judged as _, PAGE_EVENTS, PrevEvent, StoreError, View,
    },
};

/// Events looked at between two moments in which others may write.
const EVENTS_AT_ONCE: u32 = 2 * PAGE_EVENTS;

impl Walk<'_> {
    /// Every event: body, edges, what is derived.
    pub(super) fn events(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let mut next = 0;
        loop {
            let Some(mut edit) = self.hold()? else { return Ok(ControlFlow::Continue(())) };
            let last = edit.room.next_event.0;
            let end = last.min(next + EVENTS_AT_ONCE);
            for first in (next..end).step_by(usize::try_from(PAGE_EVENTS).unwrap_or(1)) {
                let looked = self.block(&edit, EventNum(first));
                self.tolerate(looked)?;
            }
            for event in (next..end).map(EventNum) {
                let looked = self.event(&mut edit, event);
                self.tolerate(looked)?;
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

    /// The bodies that are sealed together: of events that there are, and nowhere else.
    fn block(&mut self, edit: &Edit<'_>, first: EventNum) -> Result<(), StoreError> {
        let sealed = self.store.sealed_with(self.number, first)?;
        if !sealed.is_empty() && edit.room.next_event.0 < first.0.saturating_add(PAGE_EVENTS) {
            self.fault("", What::SealedEarly(first.0))?;
        }
        for event in sealed {
            if edit.find_node(event)?.is_none() {
                self.fault("", What::NoNode(event.0))?;
            }
            if self.store.is_alone(self.number, event)? {
                self.fault("", What::TwoBodies(event.0))?;
            }
        }
        Ok(())
    }

    fn event(&mut self, edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
        let Some(node) = edit.find_node(event)? else {
            if self.store.is_alone(self.number, event)? {
                self.fault("", What::NoNode(event.0))?;
            }
            return Ok(());
        };
        let body = self.store.body(self.number, event)?;
        let event_id = body.event_id.as_str();
        match self.store.event_num(self.number, event_id)? {
            Some(it) if it == event => {}
            Some(other) if self.is_held(other, event_id)? => {
                self.fault(event_id, What::HeldTwice(other.0, event.0))?;
            }
            Some(_) | None => self.fault(event_id, What::IdAstray)?,
        }
        let read = match Event::read(&body.pdu, self.version, event_id) {
            Ok(read) => read,
            Err(why) => {
                self.fault(event_id, What::BodyMalformed(why.to_string()))?;
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
                self.fault(event_id, What::BodyMalformed(it.why().to_string()))?;
                return Ok(());
            }
            Event::Unreadable(_) => {
                let own_id = id_of_unreadable(&body.pdu, self.version);
                if let Some(other) = own_id.filter(|it| *it != *event_id) {
                    self.fault(event_id, What::BodyOfAnother(other.to_string()))?;
                }
            }
        }
        if room_id.is_some_and(|it| it != self.room_id) {
            self.fault(event_id, What::BodyOfAnotherRoom)?;
        }
        if node.depth != read.depth() {
            self.fault(event_id, What::DepthWrong)?;
        }
        if !edit.is_listed(event, node.arrival)? {
            self.fault(event_id, What::NotListed)?;
        }
        if !node.flags.outlier {
            self.edges(edit, (event, &node), &read)?;
            self.derived(edit, (event, &node), &read)?;
        }
        Ok(())
    }

    /// The body of an event that can be read.
    fn readable(&mut self, node: &EventNode, body: &Body, pdu: &Pdu) -> Result<(), StoreError> {
        let event_id = body.event_id.as_str();
        if node.flags.unreadable {
            self.fault(event_id, What::ReadableNow)?;
        }
        if *pdu.event_id() != *event_id {
            self.fault(event_id, What::BodyOfAnother(pdu.event_id().to_string()))?;
        }
        let redacted = || pdu.redacted().is_ok_and(|it| it.bytes_as_received() == body.pdu);
        if !pdu.content_hash_matches() && !redacted() {
            self.fault(event_id, What::BodyUnhashed)?;
        }
        Ok(())
    }

    /// Whether this is the event under a number.
    fn is_held(&self, event: EventNum, event_id: &str) -> Result<bool, StoreError> {
        match self.store.body(self.number, event) {
            Ok(body) => Ok(body.event_id == event_id),
            // It is named where it stands.
            Err(failure) if failure.is_of_record() => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Edges, against the body and against the notes of what is missing.
    fn edges(
        &mut self,
        edit: &Edit<'_>,
        (event, node): (EventNum, &EventNode),
        read: &Event,
    ) -> Result<(), StoreError> {
        let event_id = read.event_id().as_str();
        // Older builds have drawn them all.
        if node.prev_events.len() < read.prev_events().len().min(MAX_PREV_EVENTS + 1) {
            self.fault(event_id, What::EdgesMissing)?;
        }
        let drawn = read.prev_events().iter().take(MAX_PREV_EVENTS);
        for (place, (edge, prev)) in (0u32..).zip(node.prev_events.iter().zip(drawn)) {
            let held = edit.event_num(self.number, prev.as_str())?;
            let placed = match held {
                // An id that leads to no event is named with all other records.
                Some(held) => edit.find_node(held)?.is_some_and(|it| !it.flags.outlier),
                None => false,
            };
            match (edge, held.filter(|_| placed)) {
                (PrevEvent::Held(edge), Some(held)) if *edge == held => {}
                (PrevEvent::Missing, None) if prev == read.event_id() => {}
                (PrevEvent::Missing, None) => {
                    let noted = edit.place_of_missing(self.number, prev.as_str(), event)?;
                    if noted != Some(place) {
                        self.fault(event_id, What::GapNotNoted(prev.to_string()))?;
                    }
                }
                (PrevEvent::Held(_), _) => {
                    self.fault(event_id, What::EdgeElsewhere(prev.to_string()))?;
                }
                (PrevEvent::Missing, Some(held))
                    if prev != read.event_id() && !edit.is_unsettled(self.number, held)? =>
                {
                    self.fault(event_id, What::EdgeCut(prev.to_string()))?;
                }
                (PrevEvent::Missing, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// What follows from the graph: extremities, redactions, the state.
    fn derived(
        &mut self,
        edit: &mut Edit<'_>,
        (event, node): (EventNum, &EventNode),
        read: &Event,
    ) -> Result<(), StoreError> {
        let event_id = read.event_id().as_str();
        let derived = ingest::derive(edit, event, read)?;
        if let Some(target) = read.redacts()
            && !node.flags.rejected
            && !is_noted(edit, event, target.as_str())?
        {
            self.fault(event_id, What::RedactionNotNoted(target.to_string()))?;
        }
        let expected = expected_redaction(node, read, derived.redacted);
        if expected != Redacted::of_flags(node.flags) {
            let what = if expected.is_hidden() { What::Redaction } else { What::Hidden };
            self.fault(event_id, what)?;
        }
        match (node.state_after, derived.state_after) {
            (Some(held), Some(derived)) => {
                let nodes = edit.states(self.number);
                if held != derived && !map::diff(&nodes, held.root(), derived.root())?.is_empty() {
                    self.fault(event_id, What::StateWrong)?;
                }
                let facts = |state| edit.state_facts(self.number, state);
                if facts(held)?.history_visibility != facts(derived)?.history_visibility {
                    self.fault(event_id, What::VisibilityWrong)?;
                }
            }
            (None, Some(_)) if !edit.is_unsettled(self.number, event)? => {
                self.fault(event_id, What::StateNotHeld)?;
            }
            (Some(_), None) => {
                self.fault(event_id, What::StateUnfounded)?;
            }
            (None, Some(_) | None) => {}
        }
        Ok(())
    }
}

/// Whether a redaction is noted of its target.
fn is_noted(edit: &Edit<'_>, redaction: EventNum, target_id: &str) -> Result<bool, StoreError> {
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
