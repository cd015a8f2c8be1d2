//! Hashes and ids of events, computed without the code under test.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    CanonicalJsonValue, RoomVersionId,
    canonical_json::{redact, to_canonical_value},
    room_version_rules::EventIdFormatVersion,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// What replaces a number that canonical JSON does not have, until the text is written.
const NUMBER_MARK: &str = "number:";

/// The content hash of an event, as unpadded base64.
///
/// <https://spec.matrix.org/v1.16/server-server-api/#calculating-the-content-hash-for-an-event>
pub fn content_hash(event: &Map<String, Value>) -> String {
    let mut hashed = event.clone();
    for member in ["hashes", "signatures", "unsigned"] {
        hashed.remove(member);
    }
    let canonical = canonical(Value::Object(hashed));
    STANDARD_NO_PAD.encode(Sha256::digest(text(&canonical)))
}

/// The id of an event: its member `event_id` in room versions 1 and 2, its reference hash later.
///
/// <https://spec.matrix.org/v1.16/server-server-api/#calculating-the-reference-hash-for-an-event>
pub fn event_id(event: &Map<String, Value>, version: &RoomVersionId) -> String {
    let rules = version.rules().expect("ruma knows the version");
    if rules.event_format.require_event_id {
        return event["event_id"].as_str().expect("an id is a string").to_owned();
    }
    let CanonicalJsonValue::Object(whole) = canonical(Value::Object(event.clone())) else {
        unreachable!("an object stays an object")
    };
    let mut hashed = redact(whole, &rules.redaction, None).expect("the event has a type");
    hashed.remove("signatures");
    hashed.remove("unsigned");
    let hash = Sha256::digest(text(&CanonicalJsonValue::Object(hashed)));
    match rules.event_id_format {
        EventIdFormatVersion::V2 => format!("${}", STANDARD_NO_PAD.encode(hash)),
        _ => format!("${}", URL_SAFE_NO_PAD.encode(hash)),
    }
}

/// A value as canonical JSON. Old rooms have numbers that canonical JSON does not have: a marked
/// string replaces each.
fn canonical(value: Value) -> CanonicalJsonValue {
    to_canonical_value(marked(value)).expect("no number is left that canonical JSON does not have")
}

fn marked(value: Value) -> Value {
    match value {
        Value::Number(number) if to_canonical_value(&number).is_err() => {
            Value::String(format!("{NUMBER_MARK}{number}"))
        }
        Value::Array(items) => items.into_iter().map(marked).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, it)| (name, marked(it))).collect())
        }
        other => other,
    }
}

/// The text of a canonical value, with the numbers that were replaced.
fn text(value: &CanonicalJsonValue) -> String {
    let text = value.to_string();
    let mark = format!("\"{NUMBER_MARK}");
    let mut parts = text.split(&mark);
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once('"').expect("the string of a number ends");
        written.push_str(number);
        written.push_str(rest);
    }
    written
}
