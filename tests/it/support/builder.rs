//! Rooms made up for tests: events with right hashes and ids, in any room version, that say only
//! what the test is about.
//!
//! ```text
//! let (room, create) = Room::new(RoomVersion::V10, "@a:one.example");
//! let hello = room.message("@a:one.example", "hello").after([&create]).finish();
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use backscroll::{
    ingest::{NewEvent, Verdict},
    pdu::{Pdu, RoomVersion, id_of_unreadable},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::canonical_json::to_canonical_value;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// A room that events are made for.
pub(crate) struct Room {
    pub(crate) version: RoomVersion,
    pub(crate) room_id: String,
    /// Events made so far: numbers ids and timestamps.
    made: AtomicU32,
}

/// An event that is made.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) event_id: String,
    /// The PDU's text.
    pub(crate) pdu: String,
    pub(crate) depth: i64,
    /// Breaks the format of its room version.
    pub(crate) odd: bool,
}

/// An event being made. What is not said is as plain as can be.
pub(crate) struct Draft<'r> {
    room: &'r Room,
    members: Map<String, Value>,
    prev_events: Vec<String>,
    auth_events: Vec<String>,
    deepest: i64,
}

impl Room {
    /// A room, named after its creator's server, and its create event.
    pub(crate) fn new(version: RoomVersion, creator: &str) -> (Self, Event) {
        Self::named(version, creator, "room")
    }

    /// A room whose id begins with a name (but for room version 12, where it is a hash).
    pub(crate) fn named(version: RoomVersion, creator: &str, name: &str) -> (Self, Event) {
        let (_, server) = creator.split_once(':').unwrap();
        let room_id = format!("!{name}:{server}");
        let mut room = Self { version, room_id, made: AtomicU32::new(0) };
        let content = json!({"creator": creator, "room_version": version.as_str(), "name": name});
        let mut create = room.state(creator, "m.room.create", "", content);
        if version == RoomVersion::V12 {
            create.members.remove("room_id");
        }
        let create = create.finish();
        if version == RoomVersion::V12 {
            room.room_id = create.event_id.replacen('$', "!", 1);
        }
        (room, create)
    }

    /// A message.
    pub(crate) fn message(&self, sender: &str, body: &str) -> Draft<'_> {
        self.event(sender, "m.room.message", json!({"msgtype": "m.text", "body": body}))
    }

    /// A state event.
    pub(crate) fn state(&self, sender: &str, kind: &str, key: &str, content: Value) -> Draft<'_> {
        self.event(sender, kind, content).with("state_key", json!(key))
    }

    /// A membership of somebody.
    pub(crate) fn member(&self, sender: &str, user: &str, membership: &str) -> Draft<'_> {
        self.state(sender, "m.room.member", user, json!({"membership": membership}))
    }

    /// A redaction.
    pub(crate) fn redaction(&self, sender: &str, target: &str) -> Draft<'_> {
        if matches!(self.version, RoomVersion::V11 | RoomVersion::V12) {
            return self.event(sender, "m.room.redaction", json!({"redacts": target}));
        }
        self.event(sender, "m.room.redaction", json!({})).with("redacts", json!(target))
    }

    fn event(&self, sender: &str, kind: &str, content: Value) -> Draft<'_> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let (_, server) = sender.split_once(':').unwrap();
        let mut members = Map::new();
        let mut set = |name: &str, value| members.insert(name.to_owned(), value);
        set("type", json!(kind));
        set("sender", json!(sender));
        set("room_id", json!(self.room_id));
        set("content", content);
        set("origin_server_ts", json!(1_700_000_000_000_u64 + u64::from(number)));
        set("signatures", json!({server: {"ed25519:none": "AA"}}));
        if self.version <= RoomVersion::V2 {
            set("event_id", json!(format!("${number}:{server}")));
        }
        Draft { room: self, members, prev_events: vec![], auth_events: vec![], deepest: 0 }
    }

    /// An event of this room, accepted, to be appended.
    pub(crate) fn accepted<'a>(&'a self, event: &'a Event) -> NewEvent<'a> {
        NewEvent {
            room_id: &self.room_id,
            room_version: self.version.as_str(),
            event_id: &event.event_id,
            pdu: event.pdu.as_bytes(),
            verdict: Verdict::Accepted,
            outlier: false,
            state_after: &[],
            arrival: None,
        }
    }
}

impl Draft<'_> {
    /// What precedes it; it is one deeper.
    pub(crate) fn after<'e>(mut self, events: impl IntoIterator<Item = &'e Event>) -> Self {
        for event in events {
            self.deepest = self.deepest.max(event.depth);
            self.prev_events.push(event.event_id.clone());
        }
        self
    }

    /// What authorises it.
    pub(crate) fn authorised_by(mut self, event_ids: impl IntoIterator<Item = String>) -> Self {
        self.auth_events.extend(event_ids);
        self
    }

    /// Names a predecessor by its id alone.
    pub(crate) fn after_id(mut self, event_id: &str) -> Self {
        self.prev_events.push(event_id.to_owned());
        self
    }

    /// Sets any member, right or wrong.
    pub(crate) fn with(mut self, member: &str, value: Value) -> Self {
        self.members.insert(member.to_owned(), value);
        self
    }

    /// The PDU as JSON, hashed, whatever it holds.
    pub(crate) fn json(self) -> Value {
        let references = |ids: Vec<String>| -> Value {
            let in_pairs = self.room.version <= RoomVersion::V2;
            let pair = |id: String| if in_pairs { json!([id, {"sha256": "x"}]) } else { json!(id) };
            ids.into_iter().map(pair).collect()
        };
        let mut members = self.members;
        let mut default = |name: &str, value| {
            members.entry(name).or_insert(value);
        };
        default("depth", json!(self.deepest + 1));
        default("prev_events", references(self.prev_events));
        default("auth_events", references(self.auth_events));
        let hashes = json!({"sha256": content_hash(&members)});
        members.entry("hashes").or_insert(hashes);
        Value::Object(members)
    }

    /// The event.
    pub(crate) fn finish(self) -> Event {
        let version = self.room.version;
        Event::read(self.json().to_string(), version)
    }

    /// An event that breaks the format of its room version: its text is changed before it is named.
    pub(crate) fn odd(self, change: impl FnOnce(String) -> String) -> Event {
        let (version, depth) = (self.room.version, self.deepest + 1);
        let number = self.room.made.load(Ordering::Relaxed);
        let pdu = change(self.json().to_string());
        assert!(Pdu::parse(pdu.as_bytes(), version).is_err(), "it breaks no rule: {pdu}");
        let own_id = id_of_unreadable(pdu.as_bytes(), version).map(|it| it.as_str().to_owned());
        let event_id = own_id.unwrap_or_else(|| format!("$odd{number}:one.example"));
        Event { event_id, pdu, depth, odd: true }
    }
}

impl Event {
    fn read(pdu: String, version: RoomVersion) -> Self {
        let parsed = Pdu::parse(pdu.as_bytes(), version).unwrap();
        Self {
            event_id: parsed.event_id().as_str().to_owned(),
            depth: parsed.depth(),
            pdu,
            odd: false,
        }
    }
}

/// <https://spec.matrix.org/v1.16/server-server-api/#calculating-the-content-hash-for-an-event>
fn content_hash(members: &Map<String, Value>) -> String {
    let mut hashed = members.clone();
    for member in ["hashes", "signatures", "unsigned"] {
        hashed.remove(member);
    }
    // Old rooms have numbers that canonical JSON has not.
    let hashed = Value::Object(hashed);
    let canonical =
        to_canonical_value(hashed.clone()).map_or_else(|_| hashed.to_string(), |it| it.to_string());
    STANDARD_NO_PAD.encode(Sha256::digest(canonical))
}
