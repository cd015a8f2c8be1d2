//! One event after another: what its body says against what is kept of it.

use super::Walk;
use crate::{
    ingest,
    pdu::Pdu,
    state::map,
    store::{Edit, EventNode, EventNum, PrevEvent, Room, StoreError, View},
};

/// Events looked at between two moments in which others may write.
const EVENTS_AT_ONCE: u32 = 64;

/// What a room's nodes add up to.
#[derive(Default)]
struct Sums {
    outliers: u64,
    rejected: u64,
    soft_failed: u64,
    listed_arrivals: u64,
    last_arrival: i64,
    extremities: Vec<EventNum>,
    /// Edges that should be noted as missing.
    missing: u64,
    purged: u64,
}

impl Walk<'_> {
    /// Every event: body, edges, what is derived; then what they add up to.
    pub(super) fn events(&mut self) -> Result<(), StoreError> {
        let mut sums = Sums { last_arrival: i64::MIN, ..Sums::default() };
        let mut next = 0;
        loop {
            let Some(room) = self.look_at_some(&mut next, &mut sums)? else { break };
            if next >= room.next_event.0 {
                self.compare_sums(&room, &sums)?;
                break;
            }
        }
        Ok(())
    }

    /// Looks at some events, and gives back the room's record.
    fn look_at_some(
        &mut self,
        next: &mut u32,
        sums: &mut Sums,
    ) -> Result<Option<Room>, StoreError> {
        let Some(mut edit) = self.store.edit(&self.room_id, None)? else { return Ok(None) };
        let room = edit.room.clone();
        let end = next.saturating_add(EVENTS_AT_ONCE).min(room.next_event.0);
        for event in (*next..end).map(EventNum) {
            let looked = self.event(&mut edit, event, sums);
            self.tolerate(looked)?;
        }
        self.watch.events(end - *next);
        *next = end;
        Ok(Some(room))
    }

    fn event(
        &mut self,
        edit: &mut Edit<'_>,
        event: EventNum,
        sums: &mut Sums,
    ) -> Result<(), StoreError> {
        let Some(node) = edit.find_node(event)? else {
            sums.purged += 1;
            if self.store.has_body(self.number, event)? {
                self.fault("", format!("event {} has a body but no node", event.0));
            }
            return Ok(());
        };
        let body = self.store.body(self.number, event)?;
        let event_id = body.event_id.as_str();
        if self.store.event_num(self.number, event_id)? != Some(event) {
            self.fault(event_id, "the id does not lead to the event");
        }
        sums.add(event, &node);
        let pdu = match Pdu::parse(&body.pdu, self.version) {
            Ok(pdu) => pdu,
            Err(fault) => {
                self.fault(event_id, format!("the body is no event of its room: {fault}"));
                return Ok(());
            }
        };
        if *pdu.event_id() != *event_id {
            self.fault(event_id, format!("the body is that of {}", pdu.event_id()));
        }
        if *pdu.room_id() != *self.room_id {
            self.fault(event_id, "the body is that of another room");
        }
        let redacted = || pdu.redacted().is_ok_and(|it| it.bytes_as_received() == body.pdu);
        if !pdu.content_hash_matches() && !redacted() {
            self.fault(event_id, "the body matches neither its content hash nor its redacted form");
        }
        if node.depth != pdu.depth() {
            self.fault(event_id, "the depth is not that of the body");
        }
        if !node.flags.outlier {
            self.edges(edit, (event, &node), &pdu, sums)?;
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
        sums: &mut Sums,
    ) -> Result<(), StoreError> {
        let event_id = pdu.event_id().as_str();
        if node.prev_events.len() != pdu.prev_events().len() {
            self.fault(event_id, "has another number of edges than the body");
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
                    sums.missing += 1;
                    let noted = edit.followers_of_missing(self.number, prev.as_str())?;
                    if !noted.contains(&(event, place)) {
                        self.fault(event_id, format!("{prev} is missing, but not noted as such"));
                    }
                }
                (PrevEvent::Held(_), _) => {
                    self.fault(event_id, format!("the edge to {prev} leads elsewhere"));
                }
                (PrevEvent::Missing, Some(_)) if prev != pdu.event_id() => {
                    self.fault(event_id, format!("{prev} is held, but the edge says missing"));
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
            self.fault(event_id, "whether it is redacted does not follow from the redactions held");
        }
        match (node.state_after, derived.state_after) {
            (Some(held), Some(derived)) => {
                let nodes = edit.states(self.number);
                if held != derived && !map::diff(&nodes, held.root(), derived.root())?.is_empty() {
                    self.fault(event_id, "the state after it does not follow from the graph");
                }
                let facts = |state| edit.state_facts(self.number, state);
                if facts(held)?.history_visibility != facts(derived)?.history_visibility {
                    self.fault(event_id, "the history visibility kept beside its state is wrong");
                }
            }
            (None, Some(_)) if !edit.unsettled(self.number, usize::MAX)?.contains(&event) => {
                self.fault(event_id, "the state after it could be known, but is not held");
            }
            (Some(_), None) => {
                self.fault(event_id, "has a state that does not follow from the graph");
            }
            (None, Some(_) | None) => {}
        }
        Ok(())
    }

    fn compare_sums(&mut self, room: &Room, sums: &Sums) -> Result<(), StoreError> {
        let counters = [
            ("outliers", room.outliers, sums.outliers),
            ("rejected events", room.rejected, sums.rejected),
            ("soft-failed events", room.soft_failed, sums.soft_failed),
            ("purged events", room.purged, sums.purged),
            ("listed arrivals", room.listed_arrivals, sums.listed_arrivals),
        ];
        for (what, held, counted) in counters {
            if held != counted {
                self.fault("", format!("has {counted} {what}, its record says {held}"));
            }
        }
        if room.forward_extremities != sums.extremities {
            self.fault("", "its forward extremities do not follow from the graph");
        }
        if room.next_event.0 > 0 && room.next_arrival <= sums.last_arrival {
            self.fault("", "its next arrival is one that has been");
        }
        let noted = self.store.count_missing(self.number)?;
        if noted != sums.missing {
            let counted = sums.missing;
            self.fault("", format!("has {counted} missing predecessors, {noted} are noted"));
        }
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, event: EventNum, node: &EventNode) {
        let flags = node.flags;
        self.outliers += u64::from(flags.outlier);
        self.rejected += u64::from(flags.rejected && !flags.outlier);
        self.soft_failed += u64::from(flags.soft_failed && !flags.outlier);
        self.listed_arrivals += u64::from(node.arrival != i64::from(event.0));
        self.last_arrival = self.last_arrival.max(node.arrival);
        let accepted = !flags.outlier && !flags.rejected && !flags.soft_failed;
        if accepted && !flags.followed {
            self.extremities.push(event);
        }
    }
}
