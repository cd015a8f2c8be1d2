//! Pages: the nodes of events with neighbouring numbers, in one value.

use super::{Extremity, optional_state};
use crate::{
    num,
    store::{
        EventNum, StateNum,
        codec::{Decoder, Encoder, Malformed},
        keys::PAGE_EVENTS,
    },
};

/// The byte in place of the flags of an event that has no node.
pub(in crate::store) const NO_NODE: u8 = 0xff;

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

/// The node of an event in the graph, and the decisions about the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNode {
    /// The depth that the sender claims.
    pub depth: i64,
    /// The event's arrival: its position in the room's order of arrival.
    pub arrival: i64,
    /// The decisions about the event.
    pub flags: Flags,
    /// The state after the event; `None` if it is not known.
    pub state_after: Option<StateNum>,
    /// The predecessors in the order of the event, each once.
    pub prev_events: Vec<PrevEvent>,
}

/// The decisions about an event, and facts that follow from other events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The event is held, but not placed in the graph.
    pub outlier: bool,
    /// The event failed the authorisation rules.
    pub rejected: bool,
    /// The event failed the authorisation rules against the current state only.
    pub soft_failed: bool,
    /// A valid redaction of the event is held.
    pub redacted: bool,
    /// A redaction of the event is held whose validity is not known yet.
    pub redaction_pending: bool,
    /// An accepted event follows, directly or after events that were not accepted.
    pub followed: bool,
    /// The event is a state event that was purged from the graph. It is kept as an outlier for the
    /// states that contain it, and never placed again.
    pub purged: bool,
    /// The event breaks the format of the room version. It is never served and changes no state;
    /// walks pass through it.
    pub unreadable: bool,
}

impl Flags {
    /// Whether the event is accepted: placed, neither rejected nor soft-failed.
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

    /// The flags of a byte. [`NO_NODE`] is the byte of no event, since an outlier is never followed.
    pub(in crate::store) const fn of_bits(bits: u8) -> Self {
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

/// The nodes of 32 events with neighbouring numbers. A walk of a hundred events reads a few pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Page(Vec<Option<EventNode>>);

impl EventNode {
    /// The event as a forward extremity; `None` if it is none.
    #[must_use]
    pub fn extremity(&self, event: EventNum) -> Option<Extremity> {
        let Self { arrival, state_after, .. } = *self;
        let is_one = self.flags.is_accepted() && !self.flags.followed;
        is_one.then_some(Extremity { event, arrival, state_after })
    }
}

impl Page {
    /// The node of an event of this page; `None` if it has none.
    pub(in crate::store) fn get(&self, event: EventNum) -> Option<&EventNode> {
        self.0.get(Self::slot(event))?.as_ref()
    }

    /// Adds or replaces the node of an event of this page.
    pub(in crate::store) fn set(&mut self, event: EventNum, node: EventNode) {
        let slot = Self::slot(event);
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        if let Some(held) = self.0.get_mut(slot) {
            *held = Some(node);
        }
    }

    /// Removes the node of an event of this page.
    pub(in crate::store) fn remove(&mut self, event: EventNum) {
        if let Some(held) = self.0.get_mut(Self::slot(event)) {
            *held = None;
        }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The flags of each event as a byte; [`NO_NODE`] for those that are not held.
    pub(in crate::store) fn bits(&self) -> impl Iterator<Item = u8> {
        self.0.iter().map(|it| it.as_ref().map_or(NO_NODE, |it| it.flags.bits()))
    }

    /// The index of an event in its page.
    fn slot(event: EventNum) -> usize {
        num::usize(event.0 % PAGE_EVENTS)
    }

    /// The value on disk, without its checksum; `page` is the number of this page.
    pub(in crate::store) fn encode(&self, page: u32) -> Vec<u8> {
        let mut out = Encoder::default();
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

    /// Reads a value as [`encode`](Self::encode) writes it.
    pub(in crate::store) fn decode(page: u32, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(bytes);
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
