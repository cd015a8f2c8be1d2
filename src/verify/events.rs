//! One event after another: what its body says against what is kept of it.

use std::ops::ControlFlow;

use super::Walk;
use crate::{
    ingest,
    pdu::Pdu,
    state::map,
    store::{Edit, EventNode, EventNum, PAGE_EVENTS, PrevEvent, StoreError, View},
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
            self.fault("", format!("the bodies from event {} on are sealed too early", first.0))?;
        }
        for event in sealed {
            if edit.find_node(event)?.is_none() {
                self.fault("", format!("event {} has a body but no node", event.0))?;
            }
            if self.store.is_alone(self.number, event)? {
                self.fault("", format!("event {} has a body in its block and one alone", event.0))?;
            }
        }
        Ok(())
    }

    fn event(&mut self, edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
        let Some(node) = edit.find_node(event)? else {
            if self.store.is_alone(self.number, event)? {
                self.fault("", format!("event {} has a body but no node", event.0))?;
            }
            return Ok(());
        };
        let body = self.store.body(self.number, event)?;
        let event_id = body.event_id.as_str();
        if self.store.event_num(self.number, event_id)? != Some(event) {
            self.fault(event_id, "the id does not lead to the event")?;
        }
        let pdu = match Pdu::parse(&body.pdu, self.version) {
            Ok(pdu) => pdu,
            Err(fault) => {
                self.fault(event_id, format!("the body is no event of its room: {fault}"))?;
                return Ok(());
            }
        };
        if *pdu.event_id() != *event_id {
            self.fault(event_id, format!("the body is that of {}", pdu.event_id()))?;
        }
        if *pdu.room_id() != *self.room_id {
            self.fault(event_id, "the body is that of another room")?;
        }
        let redacted = || pdu.redacted().is_ok_and(|it| it.bytes_as_received() == body.pdu);
        if !pdu.content_hash_matches() && !redacted() {
            self.fault(
                event_id,
                "the body matches neither its content hash nor its redacted form",
            )?;
        }
        if node.depth != pdu.depth() {
            self.fault(event_id, "the depth is not that of the body")?;
        }
        if !node.flags.outlier {
            self.edges(edit, (event, &node), &pdu)?;
            self.derived(edit, (event, &node), &pdu)?;
        }
        Ok(())
    }

    /// Edges, against the body and against the notes of what is missing.
    fn edges(
        &mut self,
        edit: &Edit<'_>,
        (event, node): (EventNum, &EventNode),
        pdu: &Pdu,
    ) -> Result<(), StoreError> {
        let event_id = pdu.event_id().as_str();
        if node.prev_events.len() != pdu.prev_events().len() {
            self.fault(event_id, "has another number of edges than the body")?;
        }
        for (place, (edge, prev)) in (0u32..).zip(node.prev_events.iter().zip(pdu.prev_events())) {
            let held = edit.event_num(self.number, prev.as_str())?;
            let placed = match held {
                Some(held) => !edit.node(held)?.flags.outlier,
                None => false,
            };
            match (edge, held.filter(|_| placed)) {
                (PrevEvent::Held(edge), Some(held)) if *edge == held => {}
                (PrevEvent::Missing, None) if prev == pdu.event_id() => {}
                (PrevEvent::Missing, None) => {
                    let noted = edit.followers_of_missing(self.number, prev.as_str())?;
                    if !noted.contains(&(event, place)) {
                        self.fault(event_id, format!("{prev} is missing, but not noted as such"))?;
                    }
                }
                (PrevEvent::Held(_), _) => {
                    self.fault(event_id, format!("the edge to {prev} leads elsewhere"))?;
                }
                (PrevEvent::Missing, Some(_)) if prev != pdu.event_id() => {
                    self.fault(event_id, format!("{prev} is held, but the edge says missing"))?;
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
        pdu: &Pdu,
    ) -> Result<(), StoreError> {
        let event_id = pdu.event_id().as_str();
        let derived = ingest::derive(edit, event, pdu)?;
        let held = (node.flags.redacted, node.flags.redaction_pending);
        // A redaction that was purged has left its target in the redacted form.
        let is_stripped = || {
            let redacted = pdu.redacted();
            redacted.is_ok_and(|it| it.bytes_as_received() == pdu.bytes_as_received())
        };
        let redacted = derived.redacted || (node.flags.redacted && is_stripped());
        if held != (redacted, derived.redaction_pending) {
            self.fault(
                event_id,
                "whether it is redacted does not follow from the redactions held",
            )?;
        }
        match (node.state_after, derived.state_after) {
            (Some(held), Some(derived)) => {
                let nodes = edit.states(self.number);
                if held != derived && !map::diff(&nodes, held.root(), derived.root())?.is_empty() {
                    self.fault(event_id, "the state after it does not follow from the graph")?;
                }
                let facts = |state| edit.state_facts(self.number, state);
                if facts(held)?.history_visibility != facts(derived)?.history_visibility {
                    self.fault(event_id, "the history visibility kept beside its state is wrong")?;
                }
            }
            (None, Some(_)) if !edit.unsettled(self.number, usize::MAX)?.contains(&event) => {
                self.fault(event_id, "the state after it could be known, but is not held")?;
            }
            (Some(_), None) => {
                self.fault(event_id, "has a state that does not follow from the graph")?;
            }
            (None, Some(_) | None) => {}
        }
        Ok(())
    }
}
