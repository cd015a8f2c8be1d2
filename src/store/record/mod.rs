//! The layout of every value on disk, apart from bodies.
//!
//! Decoding refuses bytes that it does not understand, and trusts no length.

mod deriving;
mod fetched_keys;
mod page;
mod state;

pub(super) use self::{
    deriving::{decode_derive_again, encode_derive_again},
    page::{NO_NODE, Page, page_of},
    state::{
        decode_state_around, decode_state_facts, decode_state_node, decode_state_nodes,
        encode_state,
    },
};
pub use self::{
    fetched_keys::FetchedKeys,
    page::{EventNode, Flags, PrevEvent},
    state::StateFacts,
};
use super::{
    EventNum, Power, StateNum,
    codec::{Decoder, Encoder, Malformed},
};
use crate::num;

/// The record of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The id of the room.
    pub room_id: String,
    /// The version of the room, as the specification names it.
    pub room_version: String,
    /// The number of the next event; numbers are given in the order in which events are stored.
    pub next_event: EventNum,
    /// The number of the next state record.
    pub next_state: StateNum,
    /// The arrival of the next event whose caller gives none.
    pub next_arrival: i64,
    /// How many events have an arrival that differs from their number.
    pub listed_arrivals: u64,
    /// How many events are outliers.
    pub outliers: u64,
    /// How many events are rejected, outliers not included.
    pub rejected: u64,
    /// How many events are soft-failed, outliers not included.
    pub soft_failed: u64,
    /// How many events were purged so that only their ids are left.
    pub purged: u64,
    /// How many events break the format of the room version, outliers included.
    pub unreadable: u64,
    /// How many accepted events no other accepted event follows.
    pub forward_extremities: u64,
    /// The state resolved over the forward extremities; `None` while it is not known.
    pub current_state: Option<StateNum>,
    /// While the current state is not known, the states that must all allow a request: the last known
    /// current state, and the states after events that were forward extremities when an event of
    /// unknown state followed them. Distinct. Empty if the current state was never known.
    pub last_known: Vec<StateNum>,
    /// The states that the last known current state was resolved from, if there were several.
    pub known_over: Vec<StateNum>,
    /// The states that the current state was resolved from, sorted and distinct.
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
            purged: 0,
            unreadable: 0,
            forward_extremities: 0,
            current_state: None,
            last_known: Vec::new(),
            known_over: Vec::new(),
            resolved_from: Vec::new(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.write(None)
    }

    /// Encodes the room; with the list of forward extremities, in the layout before format 4.
    fn write(&self, extremities_2: Option<&[EventNum]>) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(&self.room_id);
        out.text(&self.room_version);
        out.number(self.next_event.0.into());
        out.number(self.next_state.0.into());
        out.signed(self.next_arrival);
        out.number(self.listed_arrivals);
        out.number(self.outliers);
        out.number(self.rejected);
        out.number(self.soft_failed);
        out.number(self.purged);
        match extremities_2 {
            None => out.number(self.forward_extremities),
            Some(list) => {
                out.length(list.len());
                list.iter().for_each(|it| out.number(it.0.into()));
            }
        }
        out.number(self.current_state.map_or(0, |it| u64::from(it.0) + 1));
        out.length(self.resolved_from.len());
        self.resolved_from.iter().for_each(|it| out.number(it.0.into()));
        if extremities_2.is_none() {
            out.number(self.unreadable);
            out.length(self.last_known.len());
            self.last_known.iter().for_each(|it| out.number(it.0.into()));
            out.length(self.known_over.len());
            self.known_over.iter().for_each(|it| out.number(it.0.into()));
        }
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::read(bytes, 4).map(|(room, _)| room)
    }

    /// Decodes the room; before format 4, also its forward extremities.
    fn read(bytes: &[u8], format: u32) -> Result<(Self, Vec<EventNum>), Malformed> {
        let mut extremities_2 = Vec::new();
        let mut from = Decoder(bytes);
        let mut room = Self {
            room_id: from.text()?.to_owned(),
            room_version: from.text()?.to_owned(),
            next_event: EventNum(from.small()?),
            next_state: StateNum(from.small()?),
            next_arrival: from.signed()?,
            listed_arrivals: from.number()?,
            outliers: from.number()?,
            rejected: from.number()?,
            soft_failed: from.number()?,
            purged: if format >= 2 { from.number()? } else { 0 },
            unreadable: 0,
            forward_extremities: if format >= 4 {
                from.number()?
            } else {
                let count = from.length()?;
                extremities_2 =
                    (0..count).map(|_| from.small().map(EventNum)).collect::<Result<_, _>>()?;
                num::u64(extremities_2.len())
            },
            current_state: optional_state(&mut from)?,
            last_known: Vec::new(),
            known_over: Vec::new(),
            resolved_from: states(&mut from)?,
        };
        if format >= 4 {
            room.unreadable = from.number()?;
            room.last_known = states(&mut from)?;
            room.known_over = states(&mut from)?;
        }
        from.end()?;
        Ok((room, extremities_2))
    }
}

/// The record of a room in formats 1 to 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room2 {
    pub(super) room: Room,
    /// The forward extremities of the room, in ascending order.
    pub(super) extremities: Vec<EventNum>,
}

impl Room2 {
    /// Decodes a record of format 2 or 3.
    pub(super) fn decode_2(bytes: &[u8]) -> Result<Self, Malformed> {
        Room::read(bytes, 2).map(|(room, extremities)| Self { room, extremities })
    }

    /// Decodes a record of format 1.
    pub(super) fn decode_1(bytes: &[u8]) -> Result<Self, Malformed> {
        Room::read(bytes, 1).map(|(room, extremities)| Self { room, extremities })
    }

    /// Encodes a record of format 2 or 3.
    pub(super) fn encode_2(&self) -> Vec<u8> {
        self.room.write(Some(&self.extremities))
    }
}

/// The position of an event in its room's order of arrival: by arrival, and then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// The arrival, as the caller gave it, or the next of the room.
    pub arrival: i64,
    /// The event with that arrival.
    pub event: EventNum,
}

/// A forward extremity: an accepted event that no other accepted event follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extremity {
    /// The event that is the extremity.
    pub event: EventNum,
    /// The arrival of the event.
    pub arrival: i64,
    /// The state after the event; `None` if it is not known.
    pub state_after: Option<StateNum>,
}

pub(super) fn encode_extremity(state_after: Option<StateNum>) -> Vec<u8> {
    let mut out = Encoder::default();
    out.number(state_after.map_or(0, |it| u64::from(it.0) + 1));
    out.finish()
}

pub(super) fn decode_extremity(bytes: &[u8]) -> Result<Option<StateNum>, Malformed> {
    let mut from = Decoder(bytes);
    let state_after = optional_state(&mut from)?;
    from.end()?;
    Ok(state_after)
}

/// An event of the state that was received with another event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenEvent {
    /// It was held when the state was received.
    Held(EventNum),
    /// It was not held then; this is its id.
    Named(String),
}

pub(super) fn encode_given(events: &[GivenEvent]) -> Vec<u8> {
    let mut out = Encoder::default();
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
    let mut from = Decoder(bytes);
    let count = from.length()?;
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        events.push(match from.number()?.checked_sub(1) {
            Some(event) => GivenEvent::Held(EventNum(u32::try_from(event).map_err(|_| Malformed)?)),
            None => GivenEvent::Named(from.text()?.to_owned()),
        });
    }
    from.end()?;
    Ok(events)
}

/// A predecessor that is not placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MissingEvent {
    /// Its index among the predecessors of the event that names it.
    pub(super) index: u32,
    pub(super) event_id: String,
}

pub(super) fn encode_missing(index: u32, event_id: &str) -> Vec<u8> {
    let mut out = Encoder::default();
    out.number(index.into());
    out.text(event_id);
    out.finish()
}

pub(super) fn decode_missing(bytes: &[u8]) -> Result<MissingEvent, Malformed> {
    let mut from = Decoder(bytes);
    let missing = MissingEvent { index: from.small()?, event_id: from.text()?.to_owned() };
    from.end()?;
    Ok(missing)
}

pub(super) fn encode_power(power: Power) -> Vec<u8> {
    let mut out = Encoder::default();
    out.number(power.before.map_or(0, |it| u64::from(it.0) + 1));
    if let Some(Arrival { arrival, event }) = power.judged_up_to {
        out.signed(arrival);
        out.number(event.0.into());
    }
    out.finish()
}

pub(super) fn decode_power(bytes: &[u8]) -> Result<Power, Malformed> {
    let mut from = Decoder(bytes);
    let before = from.number()?.checked_sub(1).map(u32::try_from).transpose();
    let before = before.map_err(|_| Malformed)?.map(EventNum);
    let judged_up_to = if from.0.is_empty() {
        None
    } else {
        Some(Arrival { arrival: from.signed()?, event: EventNum(from.small()?) })
    };
    from.end()?;
    Ok(Power { before, judged_up_to })
}

/// The note that work is left for an event; `is_unfinished` as in
/// [`Unsettled`](crate::store::Unsettled).
pub(super) fn encode_unsettled(is_unfinished: bool) -> Vec<u8> {
    if is_unfinished { vec![1] } else { Vec::new() }
}

pub(super) fn decode_unsettled(bytes: &[u8]) -> Result<bool, Malformed> {
    match bytes {
        [] => Ok(false),
        [1] => Ok(true),
        _ => Err(Malformed),
    }
}

fn states(from: &mut Decoder<'_>) -> Result<Vec<StateNum>, Malformed> {
    let count = from.length()?;
    (0..count).map(|_| from.small().map(StateNum)).collect()
}

fn optional_state(from: &mut Decoder<'_>) -> Result<Option<StateNum>, Malformed> {
    let number = from.number()?;
    number
        .checked_sub(1)
        .map(|it| u32::try_from(it).map(StateNum))
        .transpose()
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;
