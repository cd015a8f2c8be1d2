//! Hashes of the events of an answer, by which two answers are compared. They do not depend on the order
//! of members, on spaces, or on `unsigned`.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The hash of one event.
pub(super) type EventHash = [u8; 32];

/// The hashes of the events in a JSON array, in their order. `None` if it is no JSON array.
pub(super) fn hashes(events: &[u8]) -> Option<Vec<EventHash>> {
    let events: Vec<Value> = serde_json::from_slice(events).ok()?;
    Some(events.into_iter().map(hash).collect())
}

fn hash(mut event: Value) -> EventHash {
    if let Some(members) = event.as_object_mut() {
        members.remove("unsigned");
    }
    let mut text = String::new();
    write_sorted(&event, &mut text);
    Sha256::digest(text.as_bytes()).into()
}

/// Writes a value with the members of its objects in the order of their names.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                write(&Value::String(name.clone()), out);
                out.push(':');
                write_sorted(member, out);
                out.push(',');
            }
            out.push('}');
        }
        _ => write(value, out),
    }
}

fn write(value: &Value, out: &mut String) {
    write!(out, "{value}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(event: &str) -> EventHash {
        hashes(format!("[{event}]").as_bytes()).unwrap()[0]
    }

    #[test]
    fn only_what_an_event_says_counts() {
        let event = one(r#"{"a":1,"b":{"c":["x",null],"d":1.50}}"#);
        for same in [
            r#"{ "b": {"d":1.5, "c":["x",null]}, "a":1 }"#,
            r#"{"a":1,"b":{"c":["x",null],"d":1.50},"unsigned":{"age":5}}"#,
            r#"{"a":1,"b":{"c":["\u0078",null],"d":1.50}}"#,
        ] {
            assert_eq!(one(same), event, "{same}");
        }
        for other in [
            r#"{"a":2,"b":{"c":["x",null],"d":1.50}}"#,
            r#"{"a":1,"b":{"c":[null,"x"],"d":1.50}}"#,
            r#"{"a":1,"b":{"c":["x",null],"d":1.50,"unsigned":{}}}"#,
            r#"{"a":"1","b":{"c":["x",null],"d":1.50}}"#,
            r#"{"a":1}"#,
        ] {
            assert_ne!(one(other), event, "{other}");
        }
    }

    #[test]
    fn what_is_no_array_has_no_hashes() {
        assert_eq!(hashes(b"[]"), Some(Vec::new()));
        for odd in [&b"{}"[..], b"", b"[1", b"null"] {
            assert_eq!(hashes(odd), None);
        }
    }
}
