//! An event that its room version allows: its text, its members, its id and its hashes.

use base64::{
    Engine, engine::general_purpose::STANDARD_NO_PAD, engine::general_purpose::URL_SAFE_NO_PAD,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, room_version_rules::EventIdFormatVersion};
use sha2::{Digest, Sha256};

use super::{
    error::PduError,
    ids::{EventId, OpaqueServerName, RoomId, UserId},
    json::{Json, string},
    members::EventMembers,
    read::{MAX_PDU_BYTES, ReadEvent, read_event},
    room_version::RoomVersion,
};

/// An event that was read as its room version demands. Everything about it follows from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu {
    version: RoomVersion,
    pub(super) json: Json,
    members: EventMembers,
    event_id: EventId,
    room_id: RoomId,
    received: String,
}

impl Pdu {
    /// Reads an event and checks its format. Does not check its hash or its signatures.
    ///
    /// # Errors
    /// The first fault in the format of the event.
    pub fn parse(bytes: &[u8], version: RoomVersion) -> Result<Self, PduError> {
        let ReadEvent { text, json, has_unsigned } = read_event(bytes, version)?;
        let members = EventMembers::read(&json, version)?;
        let received = if has_unsigned {
            backscroll_matrix::cut_member(text, "unsigned")
                .ok_or(PduError::format("unsigned", "cannot be told from the rest"))?
        } else {
            text.to_owned()
        };
        // Only an odd number may be longer in its canonical form than in the text.
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
        members: EventMembers,
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

    /// Returns the event as its room version redacts it. The id and the signatures are unchanged; the
    /// text is canonical JSON.
    ///
    /// # Errors
    /// A member that redaction needs is malformed.
    pub fn redacted(&self) -> Result<Self, PduError> {
        let json = self.json.redacted(&self.version.rules().redaction)?;
        let members = EventMembers::read(&json, self.version)?;
        let received = json.canonical();
        Self::assemble(json, members, received, self.version)
    }

    /// Whether the event has only what its room version keeps of a redacted event.
    pub fn is_redacted_form(&self) -> bool {
        self.redacted().is_ok_and(|it| it.canonical_json() == self.canonical_json())
    }

    /// Whether the content hash in the event matches its content. If not, the event was changed, and
    /// only its redacted form may be kept.
    pub fn content_hash_matches(&self) -> bool {
        let claimed = self.object("hashes").and_then(|hashes| string(hashes, "sha256"));
        let claimed = claimed.and_then(backscroll_matrix::base64::decode);
        let actual = Sha256::digest(self.json.hashed_text());
        claimed.is_some_and(|it| it.as_slice() == actual.as_slice())
    }

    /// Whether this and another text are of the same event: they differ at most in their signatures and
    /// in members that redaction removes.
    pub fn is_same_event(&self, other: &Self) -> bool {
        self.event_id == other.event_id
            && self.signed_text().is_ok_and(|it| other.signed_text() == Ok(it))
    }

    /// Writes the event as canonical JSON, without `unsigned`.
    pub fn canonical_json(&self) -> String {
        self.json.canonical()
    }

    /// The text as it was received, without whitespace around it and without `unsigned`.
    pub fn bytes_as_received(&self) -> &[u8] {
        self.received.as_bytes()
    }

    /// The version of the room that the event was read for.
    pub fn room_version(&self) -> RoomVersion {
        self.version
    }

    /// The event id. In room versions 1 and 2 it is a member of the event; from version 3 on it is
    /// the reference hash.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The room id. A create event of room version 12 has none: its own hash is the room id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// The member `type` of the event.
    pub fn event_type(&self) -> &str {
        &self.members.event_type
    }

    /// The member `state_key`. An event that has one is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.members.state_key.as_deref()
    }

    /// The member `sender`: a user.
    pub fn sender(&self) -> &UserId {
        &self.members.sender
    }

    /// The server in the user id of the sender.
    pub fn sender_server(&self) -> OpaqueServerName {
        self.members.sender.server_name()
    }

    /// The member `depth`, never negative. It is a claim of the sender, not a fact.
    pub fn depth(&self) -> i64 {
        self.members.depth
    }

    /// The member `origin_server_ts`, in milliseconds since 1970. It is a claim of the sender, not a
    /// fact.
    pub fn origin_server_ts(&self) -> i64 {
        self.members.origin_server_ts
    }

    /// The ids in `prev_events`, each once, in the order of the event.
    pub fn prev_events(&self) -> &[EventId] {
        &self.members.prev_events
    }

    /// The ids in `auth_events`, each once, in the order of the event.
    pub fn auth_events(&self) -> &[EventId] {
        &self.members.auth_events
    }

    /// The event that an `m.room.redaction` redacts; `None` if it names none.
    pub fn redacts(&self) -> Option<&EventId> {
        self.members.redacts.as_ref()
    }

    /// The member `content`. In place of an odd number it has 0.
    pub fn content(&self) -> &CanonicalJsonObject {
        self.object("content").expect("members are read only of an event that has content")
    }

    /// The member `content.membership` of an `m.room.member`.
    pub fn membership(&self) -> Option<&str> {
        (self.event_type() == "m.room.member").then(|| string(self.content(), "membership"))?
    }

    /// The member `content.history_visibility` of an `m.room.history_visibility`.
    pub fn history_visibility(&self) -> Option<&str> {
        (self.event_type() == "m.room.history_visibility")
            .then(|| string(self.content(), "history_visibility"))?
    }

    /// The member `signatures`: signatures by key id, by server. Its inside is not checked.
    pub(super) fn signatures(&self) -> Option<&CanonicalJsonObject> {
        self.object("signatures")
    }

    /// Writes the text that the signatures cover.
    pub(super) fn signed_text(&self) -> Result<String, PduError> {
        self.json.redacted_signed_text(&self.version.rules().redaction)
    }

    fn object(&self, name: &str) -> Option<&CanonicalJsonObject> {
        self.json.object.get(name).and_then(CanonicalJsonValue::as_object)
    }
}

/// Redacts the text of an event that is held, as canonical JSON without `unsigned`. Does not check the
/// format again.
///
/// # Errors
/// The text is not JSON that the room version allows.
pub fn redact_stored(bytes: &[u8], version: RoomVersion) -> Result<Vec<u8>, PduError> {
    let ReadEvent { json, .. } = read_event(bytes, version)?;
    Ok(json.redacted(&version.rules().redaction)?.canonical().into_bytes())
}

/// The event id that follows from the reference hash of any JSON. `None` if the room version does not
/// allow the JSON, or if it cannot be redacted.
pub(super) fn reference_hash(bytes: &[u8], version: RoomVersion) -> Option<EventId> {
    let ReadEvent { json, .. } = read_event(bytes, version).ok()?;
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
