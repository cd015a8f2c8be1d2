//! Unreadable events: a homeserver holds them, but they break the format of their room version. Only
//! the members that the graph needs are read, as far as possible.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    error::PduError,
    event::{self, Pdu},
    ids::{EventId, RoomId},
    read::{MAX_RECEIVED_BYTES, trim},
    room_version::RoomVersion,
};

/// The most predecessors of an unreadable event that are looked at. New events may have 20; an event
/// that breaks the format in other ways may have any number.
const MAX_PREV_EVENTS: usize = 100;

/// An event that is held: readable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The event is as its room version demands.
    Readable(Box<Pdu>),
    /// The event is not as its room version demands.
    Unreadable(Unreadable),
}

impl Event {
    /// Reads an event that is held under an event id.
    ///
    /// # Errors
    /// The bytes are not a JSON object, or too many, so not even an unreadable event.
    pub fn read(bytes: &[u8], version: RoomVersion, event_id: &str) -> Result<Self, PduError> {
        match Pdu::parse(bytes, version) {
            Ok(pdu) => Ok(Self::Readable(Box::new(pdu))),
            Err(why) => Unreadable::read(bytes, event_id, why).map(Self::Unreadable),
        }
    }

    /// The event if it is readable, otherwise `None`.
    pub fn pdu(&self) -> Option<&Pdu> {
        match self {
            Self::Readable(pdu) => Some(pdu),
            Self::Unreadable(_) => None,
        }
    }

    /// The id of the event.
    pub fn event_id(&self) -> &EventId {
        match self {
            Self::Readable(pdu) => pdu.event_id(),
            Self::Unreadable(it) => &it.event_id,
        }
    }

    /// The ids in `prev_events`, each once, in the order of the event. Of an unreadable event, only
    /// valid event ids, at most 100.
    pub fn prev_events(&self) -> &[EventId] {
        match self {
            Self::Readable(pdu) => pdu.prev_events(),
            Self::Unreadable(it) => &it.prev_events,
        }
    }

    /// The depth that the event claims. An unreadable event has the greatest depth there is, so that
    /// no walk ends at it.
    pub fn depth(&self) -> i64 {
        match self {
            Self::Readable(pdu) => pdu.depth(),
            Self::Unreadable(_) => i64::MAX,
        }
    }

    /// The type and the state key of a state event; `None` if the event lacks one of them.
    pub fn state_entry(&self) -> Option<(&str, &str)> {
        match self {
            Self::Readable(pdu) => Some((pdu.event_type(), pdu.state_key()?)),
            Self::Unreadable(it) => Some((it.event_type.as_deref()?, it.state_key.as_deref()?)),
        }
    }

    /// The event that an `m.room.redaction` redacts; `None` if it names none. An unreadable event
    /// never redacts another.
    pub fn redacts(&self) -> Option<&EventId> {
        self.pdu().and_then(Pdu::redacts)
    }
}

/// An event that breaks the format of its room version, with the members that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    why: PduError,
    event_id: EventId,
    room_id: Option<String>,
    prev_events: Vec<EventId>,
    event_type: Option<String>,
    state_key: Option<String>,
    received: String,
}

impl Unreadable {
    /// Reads some members of an event that cannot be read as a whole, for the reason `why`.
    ///
    /// # Errors
    /// `why` if the bytes are not a JSON object, or too many; a fault of `event_id` if that is not an
    /// event id.
    pub fn read(bytes: &[u8], event_id: &str, why: PduError) -> Result<Self, PduError> {
        let bytes = trim(bytes);
        if bytes.len() > MAX_RECEIVED_BYTES {
            return Err(why);
        }
        let Ok(text) = str::from_utf8(bytes) else { return Err(why) };
        let Some(members) = backscroll_matrix::members(text) else { return Err(why) };
        let Ok(event_id) = EventId::parse(event_id) else {
            return Err(PduError::format("event_id", "is not an event id"));
        };
        let received =
            backscroll_matrix::cut_member(text, "unsigned").unwrap_or_else(|| text.to_owned());
        Ok(Self {
            why,
            event_id,
            room_id: text_of(&members, "room_id"),
            prev_events: members.get("prev_events").map(|it| references(it)).unwrap_or_default(),
            event_type: text_of(&members, "type"),
            state_key: text_of(&members, "state_key"),
            received,
        })
    }

    /// The reason why the event cannot be read.
    pub fn why(&self) -> &PduError {
        &self.why
    }

    /// The room that the event names, or that it creates from room version 12 on; `None` if neither.
    pub fn room_id(&self, version: RoomVersion) -> Option<String> {
        let makes_its_room = !version.rules().event_format.require_room_create_room_id
            && self.event_type.as_deref() == Some("m.room.create");
        match &self.room_id {
            Some(room_id) => Some(room_id.clone()),
            None if makes_its_room => Some(RoomId::created_by(&self.event_id).as_str().to_owned()),
            None => None,
        }
    }

    /// The text as it was received, without whitespace around it and, if that can be found, without
    /// `unsigned`.
    pub fn bytes_as_received(&self) -> &[u8] {
        self.received.as_bytes()
    }
}

/// The event id of an unreadable event. In room versions 1 and 2 it is a member of the event; from
/// version 3 on it is the reference hash. `None` if the member is not an event id, or if the hash
/// cannot be computed.
pub fn id_of_unreadable(bytes: &[u8], version: RoomVersion) -> Option<EventId> {
    if version.rules().event_format.require_event_id {
        let members = backscroll_matrix::members(str::from_utf8(bytes).ok()?)?;
        return EventId::parse(&text_of(&members, "event_id")?).ok();
    }
    event::reference_hash(bytes, version)
}

fn text_of(members: &BTreeMap<String, &RawValue>, name: &str) -> Option<String> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// The event ids in a list of references, each once. A reference may be an id, or a pair as in room
/// versions 1 and 2.
fn references(list: &RawValue) -> Vec<EventId> {
    let items: Vec<&RawValue> = serde_json::from_str(list.get()).unwrap_or_default();
    let mut ids: Vec<EventId> = Vec::new();
    for item in items.into_iter().take(MAX_PREV_EVENTS) {
        let pair: Option<Vec<&RawValue>> = serde_json::from_str(item.get()).ok();
        let text = pair.as_ref().map_or(Some(item), |it| it.first().copied());
        let text: Option<String> = text.and_then(|it| serde_json::from_str(it.get()).ok());
        if let Some(id) = text.and_then(|it| EventId::parse(&it).ok())
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}
