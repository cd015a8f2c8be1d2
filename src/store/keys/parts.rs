//! What a key says of its record, for whoever looks at all of them.

use super::{
    Arrival, EventNum, RoomNum, StateNum, Tag, arrival_of, extremity_of, last_number, text,
};

/// What a key says.
pub(crate) enum Parts<'k> {
    /// Of the store as a whole.
    Store,
    /// The id of a room.
    RoomName(&'k str),
    /// A room.
    Room(RoomNum),
    /// Something of a room.
    OfRoom(RoomNum, Of),
}

/// What a record of a room is of.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Id,
    Page(u32),
    State(StateNum),
    Event(EventNum),
    /// An event, and one that follows it.
    Both(EventNum, EventNum),
    Arrival(i64, EventNum),
    Extremity(i64, EventNum),
    /// The follower of an event that is missing.
    Missing(EventNum),
}

/// What kind of record of a room a key names, for whoever asks what the loss of it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The number of an event, by its id.
    Id,
    /// Nodes of events.
    Page,
    /// What came: an event.
    Body,
    /// What came with an event: the state after it.
    GivenState,
    /// That an event redacts another, and whether that takes effect.
    Redaction,
    /// A state.
    State,
    /// What is missing or waited for, or the order of arrival: it follows from all of these.
    Note,
}

/// The kind of record of a room that a key names, if it names one.
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
        | Tag::LATER_REDACTION => Part::Note,
        _ => return None,
    })
}

/// Takes a key apart; nothing if it is none of ours.
pub(crate) fn parts(key: &[u8]) -> Option<Parts<'_>> {
    let (tag, rest) = key.split_first()?;
    let (numbers, length) = (rest.as_chunks::<4>().0, rest.len());
    let number = |at: usize| numbers.get(at).map(|it| u32::from_be_bytes(*it));
    let event = |at| number(at).map(EventNum);
    let of = match (Tag(*tag), length) {
        (Tag::FORMAT, 0 | 4)
        | (Tag::MARK_2, 0)
        | (Tag::ERASED_USER | Tag::SERVER_KEYS, _)
        | (Tag::DELETED_ROOM, 4) => return Some(Parts::Store),
        (Tag::ROOM_BY_NAME, _) => return Some(Parts::RoomName(text(key)?)),
        (Tag::ROOM, 4) => return Some(Parts::Room(RoomNum(number(0)?))),
        (Tag::EVENT, 20) => Of::Id,
        (Tag::PAGE | Tag::BLOCK, 8) => Of::Page(number(1)?),
        (Tag::STATE, 8) => Of::State(StateNum(number(1)?)),
        (Tag::BODY | Tag::GIVEN_STATE | Tag::UNSETTLED, 8) => Of::Event(event(1)?),
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
        _ => return None,
    };
    Some(Parts::OfRoom(RoomNum(number(0)?), of))
}
