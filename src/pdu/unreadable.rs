//! Events that a homeserver holds and that break the format of their room version. Of such an event
//! only what the graph needs is read, as far as that goes; its bytes say the rest.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    error::PduError,
    event::{self, MAX_RECEIVED_BYTES, Pdu},
    ids::{EventId, RoomId},
    json,
    room_version::RoomVersion,
    span,
};

/// The most predecessors of an unreadable event that are looked at. New events may have 20; what
/// breaks the format in other ways may break it in this one too.
const MAX_PREV_EVENTS: usize = 100;

/// An event as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Read, and as its room version demands.
    Readable(Box<Pdu>),
    /// Not as its room version demands.
    Unreadable(Unreadable),
}

impl Event {
    /// Reads an event that is held under an id.
    ///
    /// # Errors
    /// When the bytes are no JSON object, or too many: no event can be made of them at all.
    pub fn read(bytes: &[u8], version: RoomVersion, event_id: &str) -> Result<Self, PduError> {
        match Pdu::parse(bytes, version) {
            Ok(pdu) => Ok(Self::Readable(Box::new(pdu))),
            Err(why) => Unreadable::read(bytes, event_id, why).map(Self::Unreadable),
        }
    }

    /// The event, if it can be read.
    pub fn pdu(&self) -> Option<&Pdu> {
        match self {
            Self::Readable(pdu) => Some(pdu),
            Self::Unreadable(_) => None,
        }
    }

    /// Its id.
    pub fn event_id(&self) -> &EventId {
        match self {
            Self::Readable(pdu) => pdu.event_id(),
            Self::Unreadable(it) => &it.event_id,
        }
    }

    /// Its predecessors, each once, in the order given; of an unreadable event, those that are
    /// event ids.
    pub fn prev_events(&self) -> &[EventId] {
        match self {
            Self::Readable(pdu) => pdu.prev_events(),
            Self::Unreadable(it) => &it.prev_events,
        }
    }

    /// The depth that the event claims; of an unreadable event, the greatest there is, so that no
    /// walk ends at it.
    pub fn depth(&self) -> i64 {
        match self {
            Self::Readable(pdu) => pdu.depth(),
            Self::Unreadable(_) => i64::MAX,
        }
    }

    /// The type and the state key, if it has both: the entry of the room state that it stands for.
    pub fn state_entry(&self) -> Option<(&str, &str)> {
        match self {
            Self::Readable(pdu) => Some((pdu.event_type(), pdu.state_key()?)),
            Self::Unreadable(it) => Some((it.event_type.as_deref()?, it.state_key.as_deref()?)),
        }
    }

    /// What an `m.room.redaction` redacts, if it names an event; an unreadable event redacts
    /// nothing.
    pub fn redacts(&self) -> Option<&EventId> {
        self.pdu().and_then(Pdu::redacts)
    }
}

/// An event that cannot be read, and what could be read of it all the same.
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
    /// Reads what can be read of an event that cannot be read as a whole, and why it cannot.
    ///
    /// # Errors
    /// The reason given, when the bytes are no JSON object, or too many, or the id is none.
    pub fn read(bytes: &[u8], event_id: &str, why: PduError) -> Result<Self, PduError> {
        let bytes = json::trim(bytes);
        if bytes.len() > MAX_RECEIVED_BYTES {
            return Err(why);
        }
        let Ok(text) = str::from_utf8(bytes) else { return Err(why) };
        let Some(members) = span::members(text) else { return Err(why) };
        let Ok(event_id) = EventId::parse(event_id) else {
            return Err(PduError::format("event_id", "is no event id"));
        };
        let received = span::cut_member(text, "unsigned").unwrap_or_else(|| text.to_owned());
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

    /// Why it cannot be read.
    pub fn why(&self) -> &PduError {
        &self.why
    }

    /// The room that it names, or that it makes; nothing if it does neither.
    pub fn room_id(&self, version: RoomVersion) -> Option<String> {
        let makes_its_room = !version.rules().event_format.require_room_create_room_id
            && self.event_type.as_deref() == Some("m.room.create");
        match &self.room_id {
            Some(room_id) => Some(room_id.clone()),
            None if makes_its_room => Some(RoomId::created_by(&self.event_id).as_str().to_owned()),
            None => None,
        }
    }

    /// The text that came in, without whitespace around it and, where it can be told from the
    /// rest, without its `unsigned`.
    pub fn bytes_as_received(&self) -> &[u8] {
        self.received.as_bytes()
    }
}

/// The id that an event which cannot be read has all the same: its own word in room versions 1 and
/// 2, its reference hash from then on. Nothing where the one is none, or the other cannot be
/// computed.
pub fn id_of_unreadable(bytes: &[u8], version: RoomVersion) -> Option<EventId> {
    if version.rules().event_format.require_event_id {
        let members = span::members(str::from_utf8(bytes).ok()?)?;
        return EventId::parse(&text_of(&members, "event_id")?).ok();
    }
    event::reference_hash(bytes, version)
}

fn text_of(members: &BTreeMap<String, &RawValue>, name: &str) -> Option<String> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// The ids in a list of references, in the form of either age, each once.
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
