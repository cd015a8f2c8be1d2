//! One event: its text, its members, its id and its hashes.

use base64::{
    Engine, engine::general_purpose::STANDARD_NO_PAD, engine::general_purpose::URL_SAFE_NO_PAD,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, room_version_rules::EventIdFormatVersion};
use sha2::{Digest, Sha256};

use super::{
    error::PduError,
    ids::{EventId, RoomId, ServerName, UserId},
    json::{self, Json, Parsed, string},
    members::Members,
    room_version::RoomVersion,
    span,
};

/// The most bytes an event may have, in canonical form without `unsigned`.
pub const MAX_PDU_BYTES: usize = 65_536;

/// The most bytes that are looked at: every byte of an event may be escaped as six (`\u0000`).
pub const MAX_RECEIVED_BYTES: usize = 6 * MAX_PDU_BYTES;

/// An event of a room of a known version. Everything about it follows from its own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu {
    version: RoomVersion,
    pub(super) json: Json,
    members: Members,
    event_id: EventId,
    room_id: RoomId,
    received: String,
}

impl Pdu {
    /// Reads an event and checks its format; neither its hash nor its signatures.
    pub fn parse(bytes: &[u8], version: RoomVersion) -> Result<Self, PduError> {
        let (text, Parsed { value: json, unsigned }) = read(bytes, version)?;
        let members = Members::read(&json, version)?;
        let received = match unsigned {
            true => span::cut_member(text, "unsigned")
                .ok_or(PduError::format("unsigned", "cannot be told from the rest"))?,
            false => text.to_owned(),
        };
        // Only an odd number may grow when it is written in its canonical form.
        if received.len() > MAX_PDU_BYTES || !json.odd.is_empty() {
            let size = json.canonical().len();
            if size > MAX_PDU_BYTES {
                return Err(PduError::TooLarge { size, limit: MAX_PDU_BYTES });
            }
        }
        Self::assemble(json, members, received, version)
    }

    fn assemble(
        json: Json,
        members: Members,
        received: String,
        version: RoomVersion,
    ) -> Result<Self, PduError> {
        let event_id = match &members.event_id {
            Some(event_id) => event_id.clone(),
            None => hashed_id(&json, version)?,
        };
        let room_id = match &members.room_id {
            Some(room_id) => room_id.clone(),
            None => RoomId::created_by(&event_id),
        };
        Ok(Self { version, json, members, event_id, room_id, received })
    }

    /// The event as its room version redacts it. Its id and its signatures stay as they are; its
    /// text is canonical.
    pub fn redacted(&self) -> Result<Self, PduError> {
        let json = self.json.redacted(&self.version.rules().redaction)?;
        let members = Members::read(&json, self.version)?;
        let received = json.canonical();
        Self::assemble(json, members, received, self.version)
    }

    /// Whether the event is as its sender made it. If not, only its redacted form may be kept.
    pub fn content_hash_matches(&self) -> bool {
        let claimed = self.object("hashes").and_then(|hashes| string(hashes, "sha256"));
        let claimed = claimed.and_then(backscroll_matrix::base64::decode);
        let actual = Sha256::digest(self.json.hashed_text());
        claimed.is_some_and(|it| it.as_slice() == actual.as_slice())
    }

    /// The canonical form, without `unsigned`.
    pub fn canonical_json(&self) -> String {
        self.json.canonical()
    }

    /// The text that came in, without whitespace around it and without its `unsigned`.
    pub fn bytes_as_received(&self) -> &[u8] {
        self.received.as_bytes()
    }

    /// The version of the event's room.
    pub fn room_version(&self) -> RoomVersion {
        self.version
    }

    /// The id: the event's own word in room versions 1 and 2, its reference hash from then on.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The room; the create event of a room of version 12 names it by being hashed.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// `type`.
    pub fn event_type(&self) -> &str {
        &self.members.event_type
    }

    /// `state_key`; an event that has one is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.members.state_key.as_deref()
    }

    /// Whether this is the state event of that type and key.
    pub fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        self.event_type() == event_type && self.state_key() == Some(state_key)
    }

    /// `sender`.
    pub fn sender(&self) -> &UserId {
        &self.members.sender
    }

    /// The server of `sender`.
    pub fn sender_server(&self) -> ServerName {
        self.members.sender.server_name()
    }

    /// `depth`, never negative. A claim of the sender, not a fact.
    pub fn depth(&self) -> i64 {
        self.members.depth
    }

    /// `origin_server_ts`, in milliseconds. A claim of the sender, not a fact.
    pub fn origin_server_ts(&self) -> i64 {
        self.members.origin_server_ts
    }

    /// `prev_events`, each once, in the order given.
    pub fn prev_events(&self) -> &[EventId] {
        &self.members.prev_events
    }

    /// `auth_events`, each once, in the order given.
    pub fn auth_events(&self) -> &[EventId] {
        &self.members.auth_events
    }

    /// What an `m.room.redaction` redacts, if it names an event.
    pub fn redacts(&self) -> Option<&EventId> {
        self.members.redacts.as_ref()
    }

    /// `content`. An odd number of an old room stands in it as 0.
    pub fn content(&self) -> &CanonicalJsonObject {
        static NOTHING: CanonicalJsonObject = CanonicalJsonObject::new();
        self.object("content").unwrap_or(&NOTHING)
    }

    /// `content.membership` of an `m.room.member`.
    pub fn membership(&self) -> Option<&str> {
        (self.event_type() == "m.room.member").then(|| string(self.content(), "membership"))?
    }

    /// `content.history_visibility` of an `m.room.history_visibility`.
    pub fn history_visibility(&self) -> Option<&str> {
        (self.event_type() == "m.room.history_visibility")
            .then(|| string(self.content(), "history_visibility"))?
    }

    /// `signatures`: server, then key id, then signature; whatever stands there.
    pub(super) fn signatures(&self) -> Option<&CanonicalJsonObject> {
        self.object("signatures")
    }

    /// What the signatures cover.
    pub(super) fn signed_text(&self) -> Result<String, PduError> {
        self.json.redacted_signed_text(&self.version.rules().redaction)
    }

    fn object(&self, name: &str) -> Option<&CanonicalJsonObject> {
        self.json.object.get(name).and_then(CanonicalJsonValue::as_object)
    }
}

/// The redacted canonical form, without `unsigned`, of an event that is held.
pub fn redact_stored(bytes: &[u8], version: RoomVersion) -> Result<Vec<u8>, PduError> {
    let (_, Parsed { value: json, .. }) = read(bytes, version)?;
    Ok(json.redacted(&version.rules().redaction)?.canonical().into_bytes())
}

fn read(bytes: &[u8], version: RoomVersion) -> Result<(&str, Parsed<Json>), PduError> {
    let bytes = json::trim(bytes);
    if bytes.len() > MAX_RECEIVED_BYTES {
        return Err(PduError::TooLarge { size: bytes.len(), limit: MAX_RECEIVED_BYTES });
    }
    let text = str::from_utf8(bytes).map_err(|_| PduError::NotJson { line: 0, column: 0 })?;
    Ok((text, Json::parse(text, version.strict_json())?))
}

/// The reference hash of any JSON that the room version allows, as an id. Nothing where it does
/// not, or what is hashed cannot be told.
pub(super) fn reference_hash(bytes: &[u8], version: RoomVersion) -> Option<EventId> {
    let (_, Parsed { value: json, .. }) = read(bytes, version).ok()?;
    hashed_id(&json, version).ok()
}

fn hashed_id(json: &Json, version: RoomVersion) -> Result<EventId, PduError> {
    let rules = version.rules();
    let hash = Sha256::digest(json.redacted_signed_text(&rules.redaction)?);
    let hash = match rules.event_id_format {
        EventIdFormatVersion::V2 => STANDARD_NO_PAD.encode(hash),
        _ => URL_SAFE_NO_PAD.encode(hash),
    };
    EventId::parse(&format!("${hash}")).map_err(|_| PduError::format("event_id", "is no hash"))
}
