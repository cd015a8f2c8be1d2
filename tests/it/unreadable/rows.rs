//! Every way to break the format of an event.

use backscroll::pdu::RoomVersion;
use serde_json::{Value, json};

/// One way to break the format of an event.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) what: &'static str,
    /// Changes the text of a valid event.
    pub(super) change: fn(RoomVersion, Value) -> String,
}

const fn row(what: &'static str, change: fn(RoomVersion, Value) -> String) -> Row {
    Row { what, change }
}

fn set(mut pdu: Value, member: &str, value: Value) -> String {
    pdu[member] = value;
    pdu.to_string()
}

pub(super) fn without(mut pdu: Value, member: &str) -> String {
    pdu.as_object_mut().unwrap().remove(member);
    pdu.to_string()
}

/// Replaces the value of a member by JSON that no [`Value`] can hold.
fn raw(pdu: Value, member: &str, json: &str) -> String {
    set(pdu, member, json!("here")).replace("\"here\"", json)
}

/// Adds a predecessor in the form of the room version.
fn after_too(mut pdu: Value, more: Value) -> String {
    pdu["prev_events"].as_array_mut().unwrap().push(more);
    pdu.to_string()
}

/// Breaks the format of every room version.
pub(super) const EVERYWHERE: [Row; 27] = [
    row("a negative depth", |_, it| set(it, "depth", json!(-1))),
    row("a depth beyond 64 bits", |_, it| raw(it, "depth", "9223372036854775808")),
    row("a depth that is a text", |_, it| set(it, "depth", json!("7"))),
    row("a depth that is a fraction", |_, it| raw(it, "depth", "7.5")),
    row("no depth", |_, it| without(it, "depth")),
    row("content that is a text", |_, it| set(it, "content", json!("hello"))),
    row("content that is a list", |_, it| set(it, "content", json!([]))),
    row("content that is null", |_, it| set(it, "content", Value::Null)),
    row("no content", |_, it| without(it, "content")),
    row("a predecessor that is not an id", |_, it| after_too(it, json!("not an id"))),
    row("a predecessor that is a number", |_, it| after_too(it, json!(7))),
    row("a predecessor that is a list of a number", |_, it| after_too(it, json!([7, {}]))),
    row("a state key that is a number", |_, it| set(it, "state_key", json!(7))),
    row("a state key that is null", |_, it| set(it, "state_key", Value::Null)),
    row("no type", |_, it| without(it, "type")),
    row("a type that is a number", |_, it| set(it, "type", json!(7))),
    row("a type of 300 characters", |_, it| set(it, "type", json!("x".repeat(300)))),
    row("a sender that is not a user id", |_, it| set(it, "sender", json!("alice"))),
    row("no sender", |_, it| without(it, "sender")),
    row("no room id", |_, it| without(it, "room_id")),
    row("no hashes", |_, it| without(it, "hashes")),
    row("signatures that are a list", |_, it| set(it, "signatures", json!([]))),
    row("auth_events that are not a list", |_, it| set(it, "auth_events", json!("$x"))),
    row("auth_events that are not ids", |_, it| set(it, "auth_events", json!([["x", {}], "x"]))),
    row("no timestamp", |_, it| without(it, "origin_server_ts")),
    row("more than 64 KiB", |_, it| set(it, "content", json!({"body": "x".repeat(70_000)}))),
    row("a number that overflows", |_, it| raw(it, "content", "{\"a\": 1e400}")),
];

/// Breaks the format of room version 6 and later, which require canonical JSON.
const STRICT: [Row; 6] = [
    row("a depth beyond 2^53 - 1", |_, it| raw(it, "depth", "9007199254740992")),
    row("a fraction", |_, it| raw(it, "content", "{\"a\": 0.5}")),
    row("a number beyond 2^53 - 1", |_, it| raw(it, "content", "{\"a\": 9007199254740992}")),
    row("an exponent", |_, it| raw(it, "content", "{\"a\": 1e3}")),
    row("a duplicate member", |_, it| raw(it, "content", "{\"a\": 1, \"a\": 2}")),
    row("half a surrogate pair", |_, it| raw(it, "content", "{\"a\": \"\\ud800\"}")),
];

/// All rows for a room version.
pub(super) fn rows(version: RoomVersion) -> Vec<Row> {
    let deep = row("nested 300 levels deep", |_, it| {
        raw(it, "content", &format!("{}1{}", "{\"a\":".repeat(300), "}".repeat(300)))
    });
    let strict = STRICT.into_iter().filter(|_| version >= RoomVersion::V6);
    EVERYWHERE.into_iter().chain([deep]).chain(strict).collect()
}
