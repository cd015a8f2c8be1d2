//! Every value on disk: how it is laid out, and nothing about what it is for.
//!
//! Readers refuse what they do not understand; none of them trusts a length.

use super::{
    EventNum, PrevEvent, StateNum,
    codec::{Malformed, Reader, Writer},
    keys::PAGE_EVENTS,
};
use crate::{
    state::map::{Key, Membership, Node, Ptr, Value},
    visibility::HistoryVisibility,
};

/// What is known of a room as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its id.
    pub room_id: String,
    /// Its version, as the specification names it.
    pub room_version: String,
    /// The next event's number; numbers are given in the order in which events come.
    pub next_event: EventNum,
    /// The next state record's number.
    pub next_state: StateNum,
    /// What the next event's arrival is, if its caller does not say.
    pub next_arrival: i64,
    /// Events whose arrival is not their number.
    pub listed_arrivals: u64,
    /// Outliers among the events held.
    pub outliers: u64,
    /// Rejected events among them.
    pub rejected: u64,
    /// Soft-failed events among them.
    pub soft_failed: u64,
    /// Accepted events that nothing accepted follows, in ascending order.
    pub forward_extremities: Vec<EventNum>,
    /// The state resolved over the forward extremities, when it is known.
    pub current_state: Option<StateNum>,
    /// Which states (sorted, distinct) the current state was resolved from.
    pub resolved_from: Vec<StateNum>,
}

impl Room {
    /// A room without events.
    #[must_use]
    pub fn new(room_id: &str, room_version: &str) -> Self {
        Self {
            room_id: room_id.to_owned(),
            room_version: room_version.to_owned(),
            next_event: EventNum(0),
            next_state: StateNum(0),
            next_arrival: 0,
            listed_arrivals: 0,
            outliers: 0,
            rejected: 0,
            soft_failed: 0,
            forward_extremities: Vec::new(),
            current_state: None,
            resolved_from: Vec::new(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(&self.room_id);
        out.text(&self.room_version);
        out.number(self.next_event.0.into());
        out.number(self.next_state.0.into());
        out.signed(self.next_arrival);
        out.number(self.listed_arrivals);
        out.number(self.outliers);
        out.number(self.rejected);
        out.number(self.soft_failed);
        out.length(self.forward_extremities.len());
        self.forward_extremities.iter().for_each(|it| out.number(it.0.into()));
        out.number(self.current_state.map_or(0, |it| u64::from(it.0) + 1));
        out.length(self.resolved_from.len());
        self.resolved_from.iter().for_each(|it| out.number(it.0.into()));
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader(bytes);
        let room = Self {
            room_id: from.text()?.to_owned(),
            room_version: from.text()?.to_owned(),
            next_event: EventNum(from.small()?),
            next_state: StateNum(from.small()?),
            next_arrival: from.signed()?,
            listed_arrivals: from.number()?,
            outliers: from.number()?,
            rejected: from.number()?,
            soft_failed: from.number()?,
            forward_extremities: {
                let count = from.length()?;
                (0..count).map(|_| from.small().map(EventNum)).collect::<Result<_, _>>()?
            },
            current_state: optional_state(&mut from)?,
            resolved_from: {
                let count = from.length()?;
                (0..count).map(|_| from.small().map(StateNum)).collect::<Result<_, _>>()?
            },
        };
        from.end()?;
        Ok(room)
    }
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
}

impl Flags {
    fn bits(self) -> u8 {
        let Self { outlier, rejected, soft_failed, redacted, redaction_pending, followed } = self;
        [outlier, rejected, soft_failed, redacted, redaction_pending, followed]
            .into_iter()
            .rev()
            .fold(0, |bits, flag| (bits << 1) | u8::from(flag))
    }

    const fn of_bits(bits: u8) -> Option<Self> {
        if bits & !63 != 0 {
            return None;
        }
        Some(Self {
            outlier: bits & 1 != 0,
            rejected: bits & 2 != 0,
            soft_failed: bits & 4 != 0,
            redacted: bits & 8 != 0,
            redaction_pending: bits & 16 != 0,
            followed: bits & 32 != 0,
        })
    }
}

/// Neighbouring events' nodes, packed into one value: a walk of a hundred events reads a handful
/// of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page(Vec<Option<EventNode>>);

impl Page {
    pub(super) fn get(&self, event: EventNum) -> Option<&EventNode> {
        self.0.get(Self::slot(event))?.as_ref()
    }

    pub(super) fn set(&mut self, event: EventNum, node: EventNode) {
        let slot = Self::slot(event);
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        if let Some(place) = self.0.get_mut(slot) {
            *place = Some(node);
        }
    }

    fn slot(event: EventNum) -> usize {
        usize::try_from(event.0 % PAGE_EVENTS).unwrap_or(0)
    }

    pub(super) fn encode(&self, page: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.length(self.0.len());
        for (event, node) in (page * PAGE_EVENTS..).zip(&self.0) {
            let Some(node) = node else {
                out.byte(0xff);
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

    pub(super) fn decode(page: u32, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader(bytes);
        let count = from.length()?;
        let first = page.checked_mul(PAGE_EVENTS).ok_or(Malformed)?;
        let mut nodes = Vec::with_capacity(count);
        for event in (first..).take(count) {
            let bits = from.byte()?;
            if bits == 0xff {
                nodes.push(None);
                continue;
            }
            let flags = Flags::of_bits(bits).ok_or(Malformed)?;
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

/// What serving needs to know of a state as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFacts {
    /// The state that this one was made from: for the state after an event, the state before it.
    pub before: Option<StateNum>,
    /// What the room's history visibility is.
    pub history_visibility: HistoryVisibility,
    /// How many state events there are.
    pub events: u32,
}

/// The nodes that a state has of its own.
pub(super) fn encode_state(facts: StateFacts, nodes: &[Node]) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(facts.before.map_or(0, |it| u64::from(it.0) + 1));
    out.byte(match facts.history_visibility {
        HistoryVisibility::WorldReadable => 0,
        HistoryVisibility::Shared => 1,
        HistoryVisibility::Invited => 2,
        HistoryVisibility::Joined => 3,
    });
    out.number(facts.events.into());
    let nodes: Vec<Vec<u8>> = nodes.iter().map(encode_node).collect();
    out.length(nodes.len());
    // Where each node ends, so that one can be read without the others.
    let mut end = 0u32;
    for node in &nodes {
        end = end.saturating_add(u32::try_from(node.len()).unwrap_or(u32::MAX));
        out.raw(&end.to_be_bytes());
    }
    nodes.iter().for_each(|node| out.raw(node));
    out.finish()
}

pub(super) fn decode_state_facts(bytes: &[u8]) -> Result<StateFacts, Malformed> {
    read_state_facts(&mut Reader(bytes))
}

fn read_state_facts(from: &mut Reader<'_>) -> Result<StateFacts, Malformed> {
    Ok(StateFacts {
        before: optional_state(from)?,
        history_visibility: match from.byte()? {
            0 => HistoryVisibility::WorldReadable,
            1 => HistoryVisibility::Shared,
            2 => HistoryVisibility::Invited,
            3 => HistoryVisibility::Joined,
            _ => return Err(Malformed),
        },
        events: from.small()?,
    })
}

pub(super) fn decode_state_node(bytes: &[u8], slot: u32) -> Result<Node, Malformed> {
    let mut from = Reader(bytes);
    read_state_facts(&mut from)?;
    let count = from.length()?;
    let ends = from.raw(count.checked_mul(4).ok_or(Malformed)?)?;
    let slot = usize::try_from(slot).map_err(|_| Malformed)?;
    let end_of = |slot: usize| {
        let bytes = ends.chunks_exact(4).nth(slot)?.first_chunk::<4>()?;
        usize::try_from(u32::from_be_bytes(*bytes)).ok()
    };
    let end = end_of(slot).ok_or(Malformed)?;
    let start = match slot.checked_sub(1) {
        Some(last) => end_of(last).ok_or(Malformed)?,
        None => 0,
    };
    decode_node(from.0.get(start..end).ok_or(Malformed)?)
}

fn encode_node(node: &Node) -> Vec<u8> {
    let mut out = Writer::default();
    match node {
        Node::Leaf(entries) => {
            out.byte(0);
            out.length(entries.len());
            for (key, value) in entries {
                out.raw(&key.0);
                match value {
                    Value::Event { event, membership } => {
                        out.byte(match membership {
                            Membership::NotAMember => 0,
                            Membership::Joined => 1,
                            Membership::Invited => 2,
                            Membership::Outside => 3,
                        });
                        out.number((*event).into());
                    }
                    Value::Server { joined, invited } => {
                        out.byte(4);
                        out.number((*joined).into());
                        out.number((*invited).into());
                    }
                }
            }
        }
        Node::Inner { count, children } => {
            out.byte(1);
            out.number((*count).into());
            out.length(children.len());
            for (branch, ptr) in children {
                out.byte(*branch);
                out.number(ptr.record.into());
                out.number(ptr.slot.into());
            }
        }
    }
    out.finish()
}

fn decode_node(bytes: &[u8]) -> Result<Node, Malformed> {
    let mut from = Reader(bytes);
    let node = match from.byte()? {
        0 => {
            let count = from.length()?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                let key = Key(*from.raw(16)?.first_chunk().ok_or(Malformed)?);
                let member = |membership, from: &mut Reader<'_>| {
                    Ok(Value::Event { event: from.small()?, membership })
                };
                let value = match from.byte()? {
                    0 => member(Membership::NotAMember, &mut from)?,
                    1 => member(Membership::Joined, &mut from)?,
                    2 => member(Membership::Invited, &mut from)?,
                    3 => member(Membership::Outside, &mut from)?,
                    4 => Value::Server { joined: from.small()?, invited: from.small()? },
                    _ => return Err(Malformed),
                };
                entries.push((key, value));
            }
            Node::Leaf(entries)
        }
        1 => {
            let count = from.small()?;
            let branches = from.length()?;
            let mut children = Vec::with_capacity(branches);
            for _ in 0..branches {
                let branch = from.byte()?;
                children.push((branch, Ptr { record: from.small()?, slot: from.small()? }));
            }
            Node::Inner { count, children }
        }
        _ => return Err(Malformed),
    };
    from.end()?;
    Ok(node)
}

/// An event of the state that came with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenEvent {
    /// It was held when the state came.
    Held(EventNum),
    /// It was not: this is its id.
    Named(String),
}

pub(super) fn encode_given(events: &[GivenEvent]) -> Vec<u8> {
    let mut out = Writer::default();
    out.length(events.len());
    for event in events {
        match event {
            GivenEvent::Held(event) => out.number(u64::from(event.0) + 1),
            GivenEvent::Named(event_id) => {
                out.number(0);
                out.text(event_id);
            }
        }
    }
    out.finish()
}

pub(super) fn decode_given(bytes: &[u8]) -> Result<Vec<GivenEvent>, Malformed> {
    let mut from = Reader(bytes);
    let count = from.length()?;
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        events.push(match from.number()?.checked_sub(1) {
            Some(event) => {
                GivenEvent::Held(EventNum(u32::try_from(event).map_err(|_| Malformed)?))
            }
            None => GivenEvent::Named(from.text()?.to_owned()),
        });
    }
    from.end()?;
    Ok(events)
}

/// A reference to an event that is not placed: which of the follower's predecessors it is, and
/// its id.
pub(super) fn encode_missing(place: u32, event_id: &str) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(place.into());
    out.text(event_id);
    out.finish()
}

pub(super) fn decode_missing(bytes: &[u8]) -> Result<(u32, String), Malformed> {
    let mut from = Reader(bytes);
    let missing = (from.small()?, from.text()?.to_owned());
    from.end()?;
    Ok(missing)
}

fn optional_state(from: &mut Reader<'_>) -> Result<Option<StateNum>, Malformed> {
    let number = from.number()?;
    number.checked_sub(1).map(|it| u32::try_from(it).map(StateNum)).transpose().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;
