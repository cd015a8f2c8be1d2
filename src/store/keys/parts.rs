//! The parts of a key, for code that looks at every record.

use super::{
    Arrival, EventNum, PAGE_EVENTS, RoomNum, StateNum, Tag, arrival_of, extremity_of, last_number,
    of_content, text,
};

/// The parts of a key.
pub(crate) enum Parts<'k> {
    /// The key of a record of the whole store.
    Store,
    /// The key of a room that is not served.
    RoomNotServed,
    /// The key of a room id.
    RoomName(&'k str),
    /// The key of the record of a room.
    Room(RoomNum),
    /// The key of another record of a room.
    OfRoom(RoomNum, Of),
}

/// What a record of a room belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    /// An event id, by its hash.
    Id,
    /// A page of events.
    Page(u32),
    /// A state, by its number.
    State(StateNum),
    /// An event, by its number.
    Event(EventNum),
    /// Two events: one, and a follower.
    Both(EventNum, EventNum),
    /// The arrival of an event.
    Arrival(i64, EventNum),
    /// A forward extremity and its arrival.
    Extremity(i64, EventNum),
    /// The follower of a missing event.
    Missing(EventNum),
    /// The room as a whole.
    Whole,
}

/// The kind of a record of a room, for code that decides what its loss means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The number of an event, by its id.
    Id,
    /// A page of nodes of events.
    Page,
    /// Bodies of events, as they were received.
    Body,
    /// The state that was received with an event.
    GivenState,
    /// The note that an event redacts another, and whether that takes effect.
    Redaction,
    /// A state and nodes of its map.
    State,
    /// Any other note, which can be derived from all the records above.
    Note,
}

/// The kind of a record of a room; `None` if the key is not of such a record.
pub(crate) fn part(key: &[u8]) -> Option<Part> {
    Some(match Tag(*key.first()?) {
        Tag::EVENT => Part::Id,
        Tag::PAGE => Part::Page,
        Tag::BODY | Tag::BLOCK => Part::Body,
        Tag::GIVEN_STATE => Part::GivenState,
        Tag::REDACTION => Part::Redaction,
        Tag::STATE => Part::State,
        Tag::MISSING
        | Tag::WAITING
        | Tag::ARRIVAL
        | Tag::UNSETTLED
        | Tag::WANTED
        | Tag::EXTREMITY
        | Tag::POWER
        | Tag::LATER_REDACTION
        | Tag::DERIVE_AGAIN
        | Tag::CONTENT => Part::Note,
        _ => return None,
    })
}

/// The parts of a key; `None` if no record has such a key.
pub(crate) fn parts(key: &[u8]) -> Option<Parts<'_>> {
    let (tag, rest) = key.split_first()?;
    let (numbers, length) = (rest.as_chunks::<4>().0, rest.len());
    let number = |at: usize| numbers.get(at).map(|it| u32::from_be_bytes(*it));
    let event = |at| number(at).map(EventNum);
    let of = match (Tag(*tag), length) {
        (Tag::FORMAT, 0 | 4)
        | (Tag::MARK_2, 0)
        | (Tag::ERASED_USER | Tag::SERVER_KEYS | Tag::CURSOR, _)
        | (Tag::BAN_REDACTION | Tag::LEASE, _)
        | (Tag::REPAIR, 0)
        | (Tag::DELETED_ROOM, 4) => return Some(Parts::Store),
        (Tag::ROOM_NOT_SERVED, _) => return Some(Parts::RoomNotServed),
        (Tag::ROOM_BY_NAME, _) => return Some(Parts::RoomName(text(key)?)),
        (Tag::ROOM, 4) => return Some(Parts::Room(RoomNum(number(0)?))),
        (Tag::EVENT, 20) => Of::Id,
        (Tag::PAGE | Tag::BLOCK, 8) => Of::Page(number(1)?),
        (Tag::STATE, 8) => Of::State(StateNum(number(1)?)),
        (Tag::DERIVE_AGAIN, 4) => Of::Whole,
        (Tag::BODY | Tag::GIVEN_STATE | Tag::UNSETTLED | Tag::DERIVE_AGAIN, 8) => {
            Of::Event(event(1)?)
        }
        (Tag::WAITING, 12) => Of::Both(event(1)?, event(2)?),
        (Tag::ARRIVAL, 16) => {
            let Arrival { arrival, event } = arrival_of(key)?;
            Of::Arrival(arrival, event)
        }
        (Tag::EXTREMITY, 16) => {
            let Arrival { arrival, event } = extremity_of(key)?;
            Of::Extremity(arrival, event)
        }
        (Tag::MISSING, 24) => Of::Missing(event(5)?),
        (Tag::WANTED, 24) => Of::Event(event(5)?),
        (Tag::REDACTION, 25) | (Tag::POWER | Tag::LATER_REDACTION, 16) => {
            Of::Event(EventNum(last_number(key)?))
        }
        (Tag::CONTENT, 9) => Of::Event(of_content(key)?),
        _ => return None,
    };
    Some(Parts::OfRoom(RoomNum(number(0)?), of))
}

/// A room and one of its events without which no record has this key, or a key with this prefix.
/// `None` if no such event is known.
pub(crate) fn needed_event(key: &[u8]) -> Option<(RoomNum, EventNum)> {
    if let Some((tag, [room @ .., a, b, c, d])) = key.split_first()
        && Tag(*tag) == Tag::WAITING
        && room.len() == 4
    {
        let room = u32::from_be_bytes(*room.first_chunk()?);
        return Some((RoomNum(room), EventNum(u32::from_be_bytes([*a, *b, *c, *d]))));
    }
    let Parts::OfRoom(room, of) = parts(key)? else { return None };
    let event = match of {
        Of::Event(event) | Of::Arrival(_, event) | Of::Extremity(_, event) | Of::Missing(event) => {
            event
        }
        Of::Both(event, follower) => event.max(follower),
        Of::Page(page) => EventNum(page.saturating_mul(PAGE_EVENTS)),
        Of::Id | Of::State(_) | Of::Whole => return None,
    };
    Some((room, event))
}
