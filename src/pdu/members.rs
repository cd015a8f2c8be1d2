//! Reads the members that every PDU has, and checks them against the format of the room version.
//!
//! The numbers of `prev_events` and `auth_events` are not checked: a new event may have 20 and 10,
//! but old events that homeservers hold may have more.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, room_version_rules::EventsReferenceFormatVersion,
};

use super::{
    error::PduError,
    ids::{BadId, EventId, MAX_ID_LENGTH, RoomId, UserId},
    json::{Json, string},
    room_version::RoomVersion,
};

/// The members of an event that this service works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventMembers {
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) sender: UserId,
    /// `None` for a create event from room version 12 on: its hash is the room id.
    pub(super) room_id: Option<RoomId>,
    /// `None` from room version 3 on: the id is a hash.
    pub(super) event_id: Option<EventId>,
    pub(super) depth: i64,
    pub(super) origin_server_ts: i64,
    pub(super) prev_events: Vec<EventId>,
    pub(super) auth_events: Vec<EventId>,
    pub(super) redacts: Option<EventId>,
}

impl EventMembers {
    /// Reads and checks every member that the room version demands.
    pub(super) fn read(json: &Json, version: RoomVersion) -> Result<Self, PduError> {
        let reader = MemberReader { json, object: &json.object, version };
        let event_type = reader.required_text("type")?.to_owned();
        reader.object("content")?;
        reader.object("signatures")?;
        if string(reader.object("hashes")?, "sha256").is_none() {
            return Err(PduError::format("hashes.sha256", "is missing or not a string"));
        }
        let depth = reader.integer("depth")?;
        if depth < 0 {
            return Err(PduError::format("depth", "is negative"));
        }
        let members = Self {
            state_key: reader.text("state_key")?.map(str::to_owned),
            sender: id("sender", UserId::parse(reader.required_text("sender")?))?,
            room_id: reader.room_id(&event_type)?,
            event_id: reader.event_id()?,
            depth,
            origin_server_ts: reader.integer("origin_server_ts")?,
            prev_events: reader.references("prev_events")?,
            auth_events: reader.references("auth_events")?,
            redacts: reader.redacts(&event_type),
            event_type,
        };
        members.check_auth_events(version)?;
        Ok(members)
    }

    /// From room version 12 on the room id names the create event, so `auth_events` must not.
    fn check_auth_events(&self, version: RoomVersion) -> Result<(), PduError> {
        if version.rules().event_format.allow_room_create_in_auth_events {
            return Ok(());
        }
        match &self.room_id {
            Some(room_id) if self.auth_events.contains(&EventId::create_of(room_id)) => {
                Err(PduError::format("auth_events", "names the create event"))
            }
            _ => Ok(()),
        }
    }
}

struct MemberReader<'j> {
    json: &'j Json,
    object: &'j CanonicalJsonObject,
    version: RoomVersion,
}

impl<'j> MemberReader<'j> {
    /// A string that may be absent but not too long.
    fn text(&self, name: &'static str) -> Result<Option<&'j str>, PduError> {
        let text = match self.object.get(name) {
            None => return Ok(None),
            Some(CanonicalJsonValue::String(text)) => text,
            Some(_) => return Err(PduError::format(name, "is not a string")),
        };
        if self.version.limits_bytes() && text.len() > MAX_ID_LENGTH {
            return Err(PduError::format(name, "is longer than 255 bytes"));
        }
        if text.chars().nth(MAX_ID_LENGTH).is_some() {
            return Err(PduError::format(name, "is longer than 255 characters"));
        }
        Ok(Some(text))
    }

    fn required_text(&self, name: &'static str) -> Result<&'j str, PduError> {
        self.text(name)?.ok_or(PduError::format(name, "is missing"))
    }

    fn object(&self, name: &'static str) -> Result<&'j CanonicalJsonObject, PduError> {
        match self.object.get(name) {
            Some(CanonicalJsonValue::Object(object)) => Ok(object),
            Some(_) => Err(PduError::format(name, "is not an object")),
            None => Err(PduError::format(name, "is missing")),
        }
    }

    /// An integer. Room versions 1 to 5 allow any that fits 64 bits, later ones up to 2^53 - 1.
    fn integer(&self, name: &'static str) -> Result<i64, PduError> {
        let Some(value) = self.object.get(name) else {
            return Err(PduError::format(name, "is missing"));
        };
        let CanonicalJsonValue::Integer(int) = value else {
            return Err(PduError::format(name, "is not an integer"));
        };
        match self.json.odd_member(name) {
            None => Ok(i64::from(*int)),
            Some(odd) if odd.contains(['.', 'e']) => {
                Err(PduError::format(name, "is not an integer"))
            }
            Some(odd) => odd.parse().map_err(|_| PduError::format(name, "is out of range")),
        }
    }

    fn room_id(&self, event_type: &str) -> Result<Option<RoomId>, PduError> {
        let makes_its_room = event_type == "m.room.create"
            && !self.version.rules().event_format.require_room_create_room_id;
        if !makes_its_room {
            return id("room_id", RoomId::parse(self.required_text("room_id")?)).map(Some);
        }
        match self.object.get("room_id") {
            Some(_) => Err(PduError::format("room_id", "is not allowed in a create event")),
            None => Ok(None),
        }
    }

    /// The member `event_id`. From room version 3 on it has no meaning, though hashes cover it.
    fn event_id(&self) -> Result<Option<EventId>, PduError> {
        if !self.version.rules().event_format.require_event_id {
            return Ok(None);
        }
        id("event_id", EventId::parse(self.required_text("event_id")?)).map(Some)
    }

    /// The ids in a list of references, each once, in their order.
    fn references(&self, name: &'static str) -> Result<Vec<EventId>, PduError> {
        let items = match self.object.get(name) {
            Some(CanonicalJsonValue::Array(items)) => items,
            Some(_) => return Err(PduError::format(name, "is not an array")),
            None => return Err(PduError::format(name, "is missing")),
        };
        let in_pairs =
            self.version.rules().events_reference_format == EventsReferenceFormatVersion::V1;
        let mut seen = std::collections::BTreeSet::new();
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            let text = if in_pairs { first_of_pair(item) } else { item.as_str() };
            let text = text.ok_or(PduError::format(name, "has an item that is not a reference"))?;
            if self.version.limits_bytes() && text.len() > MAX_ID_LENGTH {
                return Err(PduError::format(name, "has an id longer than 255 bytes"));
            }
            let id = EventId::parse(text)
                .map_err(|_| PduError::format(name, "has an item that is not an event id"))?;
            if seen.insert(id.clone()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The event that a redaction redacts; `None` for other events, or if it names no event.
    fn redacts(&self, event_type: &str) -> Option<EventId> {
        if event_type != "m.room.redaction" {
            return None;
        }
        let holder = if self.version.rules().redaction.content_field_redacts {
            self.object.get("content")?.as_object()?
        } else {
            self.object
        };
        string(holder, "redacts").and_then(|text| EventId::parse(text).ok())
    }
}

/// The id in a reference of room versions 1 and 2: `[id, {"sha256": hash}]`.
fn first_of_pair(item: &CanonicalJsonValue) -> Option<&str> {
    match item.as_array()? {
        [CanonicalJsonValue::String(id), CanonicalJsonValue::Object(_)] => Some(id),
        _ => None,
    }
}

fn id<T>(member: &'static str, id: Result<T, BadId>) -> Result<T, PduError> {
    id.map_err(|why| {
        let why = match why {
            BadId::Sigil => "does not begin with its sigil",
            BadId::Length => "is longer than 255 characters",
            BadId::Server => "names no server",
        };
        PduError::format(member, why)
    })
}
