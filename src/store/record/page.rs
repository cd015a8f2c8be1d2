//! Topology: the nodes of neighbouring events, packed into one value.

use super::{Extremity, optional_state};
use crate::store::{
    EventNum, StateNum,
    codec::{Malformed, Reader, Writer},
    keys::PAGE_EVENTS,
};

/// Stands where flags would, for an event that has no node.
const NO_NODE: u8 = 0xff;

/// An edge from an event to one of its predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrevEvent {
    /// The predecessor is held in this room; it may be an outlier.
    Held(EventNum),
    /// The predecessor is not held.
    Missing,
}

/// The number of the page that holds an event.
pub(in crate::store) fn page_of(event: EventNum) -> u32 {
    event.0 / PAGE_EVENTS
}

/// An event's place in the graph, and what was decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNode {
    /// What its sender claims.
    pub depth: i64,
    /// Its place in the room's order of arrival.
    pub arrival: i64,
    /// The decisions and marks.
    pub flags: Flags,
    /// The state after it, when it is known.
    pub state_after: Option<StateNum>,
    /// Its predecessors in the order given, each once.
    pub prev_events: Vec<PrevEvent>,
}

/// The decisions about an event, and what follows from other events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Held, but not placed in the graph.
    pub outlier: bool,
    /// Failed the authorisation rules.
    pub rejected: bool,
    /// Failed them against the current state only.
    pub soft_failed: bool,
    /// A valid redaction of it is held.
    pub redacted: bool,
    /// A redaction of it is held whose validity cannot be told yet.
    pub redaction_pending: bool,
    /// An accepted event follows it, directly or through events that were not accepted.
    pub followed: bool,
    /// A state event that was purged from the graph: it is an outlier from then on, kept for the
    /// states that hold it, and never placed again.
    pub purged: bool,
    /// It cannot be read: never served, walked through, changes no state.
    pub unreadable: bool,
}

impl Flags {
    /// Whether an event counts as the room's own: only such an event follows another.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        !self.outlier && !self.rejected && !self.soft_failed
    }

    fn bits(self) -> u8 {
        let Self { outlier, rejected, soft_failed, redacted, redaction_pending, .. } = self;
        let Self { followed, purged, unreadable, .. } = self;
        let all = [
            outlier,
            rejected,
            soft_failed,
            redacted,
            redaction_pending,
            followed,
            purged,
            unreadable,
        ];
        all.into_iter().rev().fold(0, |bits, flag| (bits << 1) | u8::from(flag))
    }

    /// Any bits but [`NO_NODE`]: an outlier is never followed, so no event has all of them.
    pub(super) const fn of_bits(bits: u8) -> Self {
        Self {
            outlier: bits & 1 != 0,
            rejected: bits & 2 != 0,
            soft_failed: bits & 4 != 0,
            redacted: bits & 8 != 0,
            redaction_pending: bits & 16 != 0,
            followed: bits & 32 != 0,
            purged: bits & 64 != 0,
            unreadable: bits & 128 != 0,
        }
    }
}

/// Neighbouring events' nodes, packed into one value: a walk of a hundred events reads a handful
/// of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Page(Vec<Option<EventNode>>);

impl EventNode {
    /// The event as a forward extremity, if it is one.
    #[must_use]
    pub fn extremity(&self, event: EventNum) -> Option<Extremity> {
        let Self { arrival, state_after, .. } = *self;
        let is_one = self.flags.is_accepted() && !self.flags.followed;
        is_one.then_some(Extremity { event, arrival, state_after })
    }
}

impl Page {
    pub(in crate::store) fn get(&self, event: EventNum) -> Option<&EventNode> {
        self.0.get(Self::slot(event))?.as_ref()
    }

    pub(in crate::store) fn set(&mut self, event: EventNum, node: EventNode) {
        let slot = Self::slot(event);
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        if let Some(place) = self.0.get_mut(slot) {
            *place = Some(node);
        }
    }

    pub(in crate::store) fn remove(&mut self, event: EventNum) {
        if let Some(place) = self.0.get_mut(Self::slot(event)) {
            *place = None;
        }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn slot(event: EventNum) -> usize {
        usize::try_from(event.0 % PAGE_EVENTS).unwrap_or(0)
    }

    pub(in crate::store) fn encode(&self, page: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.length(self.0.len());
        for (event, node) in (page * PAGE_EVENTS..).zip(&self.0) {
            let Some(node) = node else {
                out.byte(NO_NODE);
                continue;
            };
            out.byte(node.flags.bits());
            out.signed(node.depth);
            out.signed(node.arrival.wrapping_sub(i64::from(event)));
            out.number(node.state_after.map_or(0, |it| u64::from(it.0) + 1));
            out.length(node.prev_events.len());
            for prev in &node.prev_events {
                match prev {
                    PrevEvent::Missing => out.signed(0),
                    PrevEvent::Held(prev) => out.signed(i64::from(prev.0) - i64::from(event)),
                }
            }
        }
        out.finish()
    }

    pub(in crate::store) fn decode(page: u32, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader(bytes);
        let count = from.length()?;
        let first = page.checked_mul(PAGE_EVENTS).ok_or(Malformed)?;
        let mut nodes = Vec::with_capacity(count);
        for event in (first..).take(count) {
            let bits = from.byte()?;
            if bits == NO_NODE {
                nodes.push(None);
                continue;
            }
            let flags = Flags::of_bits(bits);
            let depth = from.signed()?;
            let arrival = from.signed()?.wrapping_add(i64::from(event));
            let state_after = optional_state(&mut from)?;
            let prevs = from.length()?;
            let mut prev_events = Vec::with_capacity(prevs);
            for _ in 0..prevs {
                prev_events.push(match from.signed()? {
                    0 => PrevEvent::Missing,
                    distance => {
                        let prev = i64::from(event).checked_add(distance).ok_or(Malformed)?;
                        PrevEvent::Held(EventNum(u32::try_from(prev).map_err(|_| Malformed)?))
                    }
                });
            }
            nodes.push(Some(EventNode { depth, arrival, flags, state_after, prev_events }));
        }
        from.end()?;
        Ok(Self(nodes))
    }
}
