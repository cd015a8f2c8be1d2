//! Made-up rooms: events with correct hashes and ids, in any room version, that contain only what
//! the test is about.
//!
//! ```
//! # use backscroll_testkit::Room;
//! let (room, create) = Room::new("10", "@a:one.example");
//! let hello = room.message("@a:one.example", "hello").after([&create]).finish();
//! assert_eq!(hello.depth, 2);
//! ```

use std::{
    fmt::Display,
    sync::atomic::{AtomicU32, Ordering},
};

use ruma::{
    RoomVersionId,
    room_version_rules::{RoomIdFormatVersion, RoomVersionRules},
};
use serde_json::{Map, Value, json};

use crate::event_id::{content_hash, event_id};

/// A room that events are made for.
#[derive(Debug)]
pub struct Room {
    /// The room's version.
    pub version: RoomVersionId,
    /// The room's id.
    pub room_id: String,
    /// How many events were made: numbers ids and timestamps.
    made: AtomicU32,
}

/// A finished event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The event's id.
    pub event_id: String,
    /// The event's JSON text.
    pub pdu: String,
    /// The event's depth; of an unreadable event, the depth that it would have had.
    pub depth: i64,
    /// Whether the event breaks the format of its room version.
    pub unreadable: bool,
}

/// An event that is being made. Members that are not set get a plain valid value.
#[derive(Debug)]
pub struct Draft<'r> {
    room: &'r Room,
    members: Map<String, Value>,
    prev_events: Vec<String>,
    auth_events: Vec<String>,
    deepest: i64,
}

impl Room {
    /// Makes a room, named after its creator's server, and its create event.
    pub fn new(version: impl Display, creator: &str) -> (Self, Event) {
        Self::named(version, creator, "room")
    }

    /// Makes a room whose id begins with a name, and its create event. In room version 12 the id is
    /// a hash, and the name is part of the create event only.
    pub fn named(version: impl Display, creator: &str, name: &str) -> (Self, Event) {
        let version = RoomVersionId::try_from(version.to_string()).expect("a room version");
        let room_id = format!("!{name}:{}", server_of(creator));
        let mut room = Self { version, room_id, made: AtomicU32::new(0) };
        let content =
            json!({"creator": creator, "room_version": room.version.as_str(), "name": name});
        let mut create = room.state(creator, "m.room.create", "", content);
        let is_hash = create.room.rules().room_id_format == RoomIdFormatVersion::V2;
        if is_hash {
            create.members.remove("room_id");
        }
        let create = create.finish();
        if is_hash {
            room.room_id = create.event_id.replacen('$', "!", 1);
        }
        (room, create)
    }

    /// A message.
    pub fn message(&self, sender: &str, body: &str) -> Draft<'_> {
        self.event(sender, "m.room.message", json!({"msgtype": "m.text", "body": body}))
    }

    /// A state event.
    pub fn state(&self, sender: &str, kind: &str, key: &str, content: Value) -> Draft<'_> {
        self.event(sender, kind, content).with("state_key", json!(key))
    }

    /// A member event that sets the membership of `user`.
    pub fn member(&self, sender: &str, user: &str, membership: &str) -> Draft<'_> {
        self.state(sender, "m.room.member", user, json!({"membership": membership}))
    }

    /// A redaction of the event `target`.
    pub fn redaction(&self, sender: &str, target: &str) -> Draft<'_> {
        if self.rules().redaction.content_field_redacts {
            return self.event(sender, "m.room.redaction", json!({"redacts": target}));
        }
        self.event(sender, "m.room.redaction", json!({})).with("redacts", json!(target))
    }

    /// How many events of the room were made so far.
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    fn rules(&self) -> RoomVersionRules {
        self.version.rules().expect("ruma knows the version")
    }

    fn event(&self, sender: &str, kind: &str, content: Value) -> Draft<'_> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let server = server_of(sender);
        let mut members = Map::new();
        let mut set = |name: &str, value| members.insert(name.to_owned(), value);
        set("type", json!(kind));
        set("sender", json!(sender));
        set("room_id", json!(self.room_id));
        set("content", content);
        set("origin_server_ts", json!(1_700_000_000_000_u64 + u64::from(number)));
        set("signatures", json!({server: {"ed25519:none": "AA"}}));
        if self.rules().event_format.require_event_id {
            set("event_id", json!(format!("${number}:{server}")));
        }
        Draft { room: self, members, prev_events: vec![], auth_events: vec![], deepest: 0 }
    }
}

impl<'r> Draft<'r> {
    /// Adds predecessors. The event's depth is one more than the greatest depth among them.
    pub fn after<'e>(mut self, events: impl IntoIterator<Item = &'e Event>) -> Self {
        for event in events {
            self.deepest = self.deepest.max(event.depth);
            self.prev_events.push(event.event_id.clone());
        }
        self
    }

    /// Adds a predecessor by its id alone. It does not change the event's depth.
    pub fn after_id(mut self, event_id: &str) -> Self {
        self.prev_events.push(event_id.to_owned());
        self
    }

    /// Adds the ids of events that authorise this event.
    pub fn authorised_by(mut self, event_ids: impl IntoIterator<Item = String>) -> Self {
        self.auth_events.extend(event_ids);
        self
    }

    /// Sets any member to any value, valid or not.
    pub fn with(mut self, member: &str, value: Value) -> Self {
        self.members.insert(member.to_owned(), value);
        self
    }

    /// The room of the event.
    pub const fn room(&self) -> &'r Room {
        self.room
    }

    /// The depth that the event gets unless [`Draft::with`] sets another.
    pub const fn depth(&self) -> i64 {
        self.deepest + 1
    }

    /// The event's members with its content hash, even if they break the format.
    pub fn members(self) -> Map<String, Value> {
        let depth = self.depth();
        let in_pairs = self.room.rules().event_format.require_event_id;
        let references = |ids: Vec<String>| -> Value {
            let pair = |id: String| if in_pairs { json!([id, {"sha256": "x"}]) } else { json!(id) };
            ids.into_iter().map(pair).collect()
        };
        let mut members = self.members;
        let mut default = |name: &str, value| {
            members.entry(name).or_insert(value);
        };
        default("depth", json!(depth));
        default("prev_events", references(self.prev_events));
        default("auth_events", references(self.auth_events));
        let hashes = json!({"sha256": content_hash(&members)});
        members.entry("hashes").or_insert(hashes);
        members
    }

    /// Finishes the event.
    pub fn finish(self) -> Event {
        let version = &self.room.version;
        let members = self.members();
        Event {
            event_id: event_id(&members, version),
            depth: members["depth"].as_i64().expect("a depth is an integer"),
            pdu: Value::Object(members).to_string(),
            unreadable: false,
        }
    }
}

/// The server of a user id.
fn server_of(user_id: &str) -> &str {
    user_id.split_once(':').expect("a user id names a server").1
}
