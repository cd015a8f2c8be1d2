//! Tests of whole events; what one file does is tested in that file.

mod formats;
mod hashes;
mod random;
mod recorded;
mod signing;

use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use super::{Pdu, PduError, RoomVersion};

/// An event that every room version accepts once [`shape`] has given it its form.
fn message() -> Value {
    json!({
        "auth_events": ["$a"],
        "content": {"body": "hello", "msgtype": "m.text"},
        "depth": 7,
        "hashes": {"sha256": "AAAA"},
        "origin_server_ts": 1_000,
        "prev_events": ["$p", "$q"],
        "room_id": "!r:s",
        "sender": "@u:s",
        "signatures": {"s": {"ed25519:1": "AAAA"}},
        "type": "m.room.message",
    })
}

/// The same event as rooms of that version have it.
fn shape(mut event: Value, version: RoomVersion) -> Value {
    if version <= RoomVersion::V2 {
        event["event_id"] = json!("$e:s");
        for name in ["prev_events", "auth_events"] {
            for reference in event[name].as_array_mut().unwrap() {
                *reference = json!([reference.take(), {"sha256": "AAAA"}]);
            }
        }
    }
    event
}

/// `message()` in that version, with these members in place of its own; null takes one away.
fn message_with(version: RoomVersion, members: Value) -> Value {
    let mut event = shape(message(), version);
    let Value::Object(members) = members else { panic!("no object") };
    for (name, value) in members {
        match value {
            Value::Null => drop(event.as_object_mut().unwrap().remove(&name)),
            value => event[name] = value,
        }
    }
    event
}

fn parse(event: &Value, version: RoomVersion) -> Result<Pdu, PduError> {
    Pdu::parse(event.to_string().as_bytes(), version)
}

fn object(text: &str) -> CanonicalJsonObject {
    serde_json::from_str(text).unwrap()
}
