//! What is no event, per room version, and the words in which that is said.

use serde_json::{Value, json};

use super::{message, message_with, parse, shape};
use backscroll_matrix::JsonFault;

use crate::pdu::{MAX_PDU_BYTES, MAX_RECEIVED_BYTES, Pdu, PduError, RoomVersion};
use RoomVersion::{V1, V2, V3, V5, V6, V10, V11, V12};

#[test]
fn the_plain_message_is_an_event_in_every_version() {
    for version in RoomVersion::ALL {
        let pdu = parse(&shape(message(), version), version).unwrap();
        assert_eq!(pdu.room_version(), version);
        assert_eq!(pdu.event_type(), "m.room.message");
        assert_eq!((pdu.state_key(), pdu.redacts(), pdu.membership()), (None, None, None));
        assert_eq!((pdu.depth(), pdu.origin_server_ts()), (7, 1_000));
        assert_eq!((pdu.sender().as_str(), pdu.sender_server().as_str()), ("@u:s", "s"));
        assert_eq!(pdu.room_id(), &"!r:s");
        assert_eq!(pdu.prev_events(), ["$p", "$q"]);
        assert_eq!(pdu.auth_events(), ["$a"]);
        assert_eq!(pdu.content()["body"].as_str(), Some("hello"));
    }
}

/// One fault: the versions in which it is one, the members that make it, and the words for it.
type Fault = (&'static [RoomVersion], Value, &'static str);

const ALL: &[RoomVersion] = &RoomVersion::ALL;
const PAIRS: &[RoomVersion] = &[V1, V2];
const HASHED: &[RoomVersion] = &[V3, V5, V6, V10, V11, V12];
const OLD: &[RoomVersion] = &[V1, V5];
const CHARACTERS: &[RoomVersion] = &[V1, V10];
const BYTES: &[RoomVersion] = &[V11, V12];

fn assert_faults(faults: Vec<Fault>) {
    for (versions, members, words) in faults {
        for version in versions {
            let result = parse(&message_with(*version, members.clone()), *version);
            assert_eq!(result.unwrap_err().to_string(), words, "{members} in {version}");
        }
    }
}

#[test]
fn members_must_be_there_and_of_their_type() {
    assert_faults(vec![
        (ALL, json!({"type": null}), "type is missing"),
        (ALL, json!({"type": 1}), "type is not a string"),
        (ALL, json!({"sender": null}), "sender is missing"),
        (ALL, json!({"sender": {}}), "sender is not a string"),
        (ALL, json!({"sender": "u:s"}), "sender does not begin with its sigil"),
        (ALL, json!({"sender": "@u"}), "sender names no server"),
        (ALL, json!({"sender": "@u:"}), "sender names no server"),
        (ALL, json!({"room_id": null}), "room_id is missing"),
        (ALL, json!({"room_id": "r:s"}), "room_id does not begin with its sigil"),
        (ALL, json!({"content": null}), "content is missing"),
        (ALL, json!({"content": []}), "content is not an object"),
        (ALL, json!({"signatures": null}), "signatures is missing"),
        (ALL, json!({"signatures": "x"}), "signatures is not an object"),
        (ALL, json!({"hashes": null}), "hashes is missing"),
        (ALL, json!({"hashes": {}}), "hashes.sha256 is missing or not a string"),
        (ALL, json!({"hashes": {"sha256": 1}}), "hashes.sha256 is missing or not a string"),
        (ALL, json!({"state_key": 1}), "state_key is not a string"),
        (ALL, json!({"depth": null}), "depth is missing"),
        (ALL, json!({"depth": "7"}), "depth is not an integer"),
        (ALL, json!({"depth": -1}), "depth is negative"),
        (OLD, json!({"depth": 7.0}), "depth is not an integer"),
        (OLD, json!({"depth": 1e300}), "depth is not an integer"),
        (OLD, json!({"depth": u64::MAX}), "depth is out of range"),
        (ALL, json!({"origin_server_ts": null}), "origin_server_ts is missing"),
        (ALL, json!({"origin_server_ts": true}), "origin_server_ts is not an integer"),
        (OLD, json!({"origin_server_ts": 1.5}), "origin_server_ts is not an integer"),
        (PAIRS, json!({"event_id": null}), "event_id is missing"),
        (PAIRS, json!({"event_id": "e:s"}), "event_id does not begin with its sigil"),
    ]);
}

#[test]
fn references_must_be_of_the_form_of_their_version() {
    assert_faults(vec![
        (ALL, json!({"prev_events": null}), "prev_events is missing"),
        (ALL, json!({"auth_events": {}}), "auth_events is not an array"),
        (ALL, json!({"prev_events": [1]}), "prev_events has an item that is not a reference"),
        (PAIRS, json!({"prev_events": ["$p"]}), "prev_events has an item that is not a reference"),
        (
            PAIRS,
            json!({"prev_events": [["$p"]]}),
            "prev_events has an item that is not a reference",
        ),
        (
            PAIRS,
            json!({"prev_events": [["$p", "h"]]}),
            "prev_events has an item that is not a reference",
        ),
        (
            PAIRS,
            json!({"auth_events": [["p", {}]]}),
            "auth_events has an item that is not an event id",
        ),
        (
            HASHED,
            json!({"prev_events": [["$p", {}]]}),
            "prev_events has an item that is not a reference",
        ),
        (HASHED, json!({"prev_events": [""]}), "prev_events has an item that is not an event id"),
        (
            &[V12],
            json!({"room_id": "!c", "auth_events": ["$a", "$c"]}),
            "auth_events names the create event",
        ),
    ]);
    let pdu = parse(&message_with(V11, json!({"prev_events": ["$q", "$p", "$q"]})), V11).unwrap();
    assert_eq!(pdu.prev_events(), ["$q", "$p"]);
    let many: Vec<_> = (0..200).map(|it| format!("${it}")).collect();
    let pdu = parse(&message_with(V12, json!({"prev_events": many})), V12).unwrap();
    assert_eq!(pdu.prev_events().len(), 200);
    assert!(
        parse(&message_with(V11, json!({"room_id": "!c", "auth_events": ["$c"]})), V11).is_ok()
    );
}

#[test]
fn long_members_are_measured_in_characters_and_from_version_11_in_bytes() {
    let wide = "\u{20ac}".repeat(86);
    for name in ["type", "state_key", "sender", "room_id", "event_id"] {
        let begin = match name {
            "sender" => "@u:",
            "room_id" => "!",
            "event_id" => "$",
            _ => "",
        };
        let member = |rest: &str| json!({name: format!("{begin}{rest}")});
        let versions = if name == "event_id" { PAIRS } else { CHARACTERS };
        for version in versions {
            let longest = "a".repeat(255 - begin.len());
            assert!(parse(&message_with(*version, member(&longest)), *version).is_ok());
            assert!(parse(&message_with(*version, member(&wide)), *version).is_ok());
            let error = parse(&message_with(*version, member(&format!("{longest}a"))), *version);
            let words = format!("{name} is longer than 255 characters");
            assert_eq!(error.unwrap_err().to_string(), words);
        }
        for version in BYTES.iter().filter(|_| name != "event_id") {
            let error = parse(&message_with(*version, member(&wide)), *version).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is longer than 255 bytes"));
        }
    }
}

#[test]
fn a_create_event_of_version_12_makes_its_room() {
    let create = json!({"type": "m.room.create", "state_key": "", "auth_events": []});
    assert_faults(vec![(&[V12], create.clone(), "room_id is not allowed in a create event")]);
    assert!(parse(&message_with(V11, create.clone()), V11).is_ok());
    let mut event = message_with(V12, create);
    event.as_object_mut().unwrap().remove("room_id");
    assert!(matches!(parse(&event, V11), Err(PduError::Format { member: "room_id", .. })));
    let pdu = parse(&event, V12).unwrap();
    assert_eq!(pdu.room_id().as_str().replace('!', "$"), pdu.event_id().as_str());
    let redacted = pdu.redacted().unwrap();
    assert_eq!((redacted.room_id(), redacted.event_id()), (pdu.room_id(), pdu.event_id()));
    assert!(!redacted.canonical_json().contains("room_id"));
}

/// `message()` with `body` as the JSON text of its content's body.
fn with_body(version: RoomVersion, body: &str) -> Result<Pdu, PduError> {
    let text = shape(message(), version).to_string().replace(r#""hello""#, body);
    Pdu::parse(text.as_bytes(), version)
}

#[test]
fn json_that_versions_before_6_allow() {
    use JsonFault::{DuplicateMember, LoneSurrogate, Number, Overflow, TooDeep};
    let long = "9".repeat(4_301);
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let object_deep = format!("{}1{}", r#"{"a":"#.repeat(99), "}".repeat(99));
    // The JSON, why version 6 refuses it, and what version 5 makes of it.
    for (body, strict, lenient) in [
        ("1.5", Number, Ok("1.5")),
        ("1e22", Number, Ok("1e+22")),
        ("0e1", Number, Ok("0.0")),
        ("1E5", Number, Ok("100000.0")),
        ("-0.0", Number, Ok("-0.0")),
        ("-0", Number, Ok("0")),
        ("9007199254740992", Number, Ok("9007199254740992")),
        ("-9007199254740992", Number, Ok("-9007199254740992")),
        ("18446744073709551616", Number, Ok("18446744073709551616")),
        (&long[1..], Overflow, Ok(&long[1..])),
        (&long, Overflow, Err(Overflow)),
        ("1e400", Overflow, Err(Overflow)),
        ("[1.5,1e400]", Number, Err(Overflow)),
        (r#"{"a":1,"a":2}"#, DuplicateMember, Ok(r#"{"a":2}"#)),
        (r#"{"a":1.5,"a":[2],"\u0061":{}}"#, Number, Ok(r#"{"a":{}}"#)),
        (r#"{"a":[1.5],"a":[2]}"#, Number, Ok(r#"{"a":[2]}"#)),
        (r#""\ud800""#, LoneSurrogate, Err(LoneSurrogate)),
        (r#""\ud800\ud800""#, LoneSurrogate, Err(LoneSurrogate)),
        (r#""\udc00""#, LoneSurrogate, Err(LoneSurrogate)),
        (r#""\ud800x""#, LoneSurrogate, Err(LoneSurrogate)),
        (r#"{"\ud800":1}"#, LoneSurrogate, Err(LoneSurrogate)),
        (r#"{"a":1.5,"b":"\ud800"}"#, Number, Err(LoneSurrogate)),
        (r#"{"a":1.5,"\ud800":1}"#, Number, Err(LoneSurrogate)),
        (&deep(99), TooDeep, Err(TooDeep)),
        (&object_deep, TooDeep, Err(TooDeep)),
        (&deep(30_000), TooDeep, Err(TooDeep)),
        (&format!("[1.5,{}]", deep(98)), Number, Err(TooDeep)),
        (&format!("[1.5,{}]", deep(30_000)), Number, Err(TooDeep)),
        (&format!("[1.5,{}]", deep(97)), Number, Ok(&format!("[1.5,{}]", deep(97)))),
    ] {
        let shown = &body[..body.len().min(40)];
        assert_eq!(with_body(V6, body), Err(PduError::BadJson(strict)), "{shown} in 6");
        match (with_body(V5, body), lenient) {
            (Ok(pdu), Ok(canonical)) => {
                let text = pdu.canonical_json();
                assert!(text.contains(&format!(r#""body":{canonical},"#)), "{shown}: {text}");
                // What is stored is what came, to the byte.
                assert!(str::from_utf8(pdu.bytes_as_received()).unwrap().contains(body));
            }
            (Err(error), Err(bad)) => assert_eq!(error, PduError::BadJson(bad), "{shown} in 5"),
            (got, want) => panic!("{shown} in 5: {got:?}, not {want:?}"),
        }
    }
    assert!(with_body(V6, &deep(98)).is_ok());
    assert!(with_body(V6, "9007199254740991").is_ok());
    assert!(with_body(V6, "-9007199254740991").is_ok());
    assert!(with_body(V6, r#""\ud83d\ude00""#).is_ok());
}

#[test]
fn what_is_not_json_is_not_json() {
    for version in [V5, V6] {
        for body in [
            "NaN",
            "Infinity",
            "-Infinity",
            "01",
            "1.",
            ".5",
            "+1",
            "1.5,",
            "'a'",
            "\"\u{1}\"",
            r#""\x""#,
            r#""\ud8""#,
            "[1.5}",
            "1.5 x",
            "tru",
            "-",
            "\u{c}1",
        ] {
            let error = with_body(version, body).unwrap_err();
            assert!(matches!(error, PduError::NotJson { line: 1, .. }), "{body}: {error}");
        }
        for bytes in [
            &b""[..],
            b" ",
            b"{",
            b"{}{}",
            b"\xef\xbb\xbf{}",
            b"\x0c{}",
            b"\xff",
            b"{\"a\":\"\xc3\"}",
        ] {
            let error = Pdu::parse(bytes, version).unwrap_err();
            assert!(matches!(error, PduError::NotJson { .. }), "{bytes:?}: {error}");
        }
        for text in ["[]", "1", "\"a\"", "null", "[1.5]", "1.5", "1e400", "true"] {
            let error = Pdu::parse(text.as_bytes(), version).unwrap_err();
            let said = error.to_string();
            assert!(!said.contains("event") || said == "event is not an object", "{text}: {said}");
            assert!(!matches!(error, PduError::NotJson { .. }), "{text}");
        }
    }
}

#[test]
fn an_event_may_have_65536_bytes_and_no_more() {
    for version in [V1, V5, V6, V12] {
        let overhead = shape(message(), version).to_string().len() - "hello".len();
        let of_size = |size: usize| "a".repeat(size - overhead);
        let with = |body: &str| {
            parse(
                &message_with(version, json!({"content": {"body": body, "msgtype": "m.text"}})),
                version,
            )
        };
        let largest = with(&of_size(MAX_PDU_BYTES)).unwrap();
        assert_eq!(largest.canonical_json().len(), MAX_PDU_BYTES);
        assert!(largest.redacted().is_ok());
        let error = PduError::TooLarge { size: MAX_PDU_BYTES + 1, limit: MAX_PDU_BYTES };
        assert_eq!(with(&of_size(MAX_PDU_BYTES + 1)), Err(error));
        // It is the canonical form that counts.
        let escaped = format!(r#""{}""#, r"\u0061".repeat(50_000));
        assert!(with_body(version, &escaped).is_ok());
        let unsigned = json!({"unsigned": {"filler": "a".repeat(MAX_PDU_BYTES)}});
        assert!(parse(&message_with(version, unsigned), version).is_ok());
        let bytes = vec![b'1'; MAX_RECEIVED_BYTES + 1];
        let error = PduError::TooLarge { size: bytes.len(), limit: MAX_RECEIVED_BYTES };
        assert_eq!(Pdu::parse(&bytes, version), Err(error));
    }
    // Four bytes that stand for eighteen.
    let numbers = format!("[{}1e15]", "1e15,".repeat(9_000));
    assert!(matches!(with_body(V5, &numbers), Err(PduError::TooLarge { size: 170_000.., .. })));
}

#[test]
fn old_rooms_may_have_depths_beyond_2_to_the_53() {
    for version in [V1, V5] {
        let pdu = parse(&message_with(version, json!({"depth": i64::MAX})), version).unwrap();
        assert_eq!(pdu.depth(), i64::MAX);
        assert_eq!(pdu.redacted().unwrap().depth(), i64::MAX);
    }
    let result = parse(&message_with(V6, json!({"depth": i64::MAX})), V6);
    assert_eq!(result, Err(PduError::BadJson(JsonFault::Number)));
}

#[test]
fn unsigned_is_no_part_of_an_event() {
    let plain = shape(message(), V6).to_string();
    let pdu = Pdu::parse(plain.as_bytes(), V6).unwrap();
    for unsigned in ["{}", "1.5", r#"{"age":1,"age":1e400}"#, "null"] {
        let text = format!(" \n{},\"unsigned\" : {unsigned}}}\t", plain.strip_suffix('}').unwrap());
        assert_eq!(Pdu::parse(text.as_bytes(), V6).unwrap(), pdu, "{unsigned}");
    }
    let twice = plain.replacen('{', r#"{"unsigned":1,"\u0075nsigned":2,"#, 1);
    assert_eq!(
        Pdu::parse(twice.as_bytes(), V6),
        Err(PduError::BadJson(JsonFault::DuplicateMember))
    );
    let old = shape(message(), V5).to_string();
    let twice = old.replacen('{', r#"{"unsigned":1,"\u0075nsigned":2,"#, 1);
    let pdu = Pdu::parse(twice.as_bytes(), V5).unwrap();
    assert_eq!(pdu.bytes_as_received(), old.as_bytes());
}

#[test]
fn redactions_name_what_they_redact_at_the_place_of_their_version() {
    let redaction = json!({
        "type": "m.room.redaction",
        "redacts": "$top",
        "content": {"redacts": "$content"},
    });
    for version in RoomVersion::ALL {
        let pdu = parse(&message_with(version, redaction.clone()), version).unwrap();
        let place = if version < V11 { "$top" } else { "$content" };
        assert_eq!(pdu.redacts().map(AsRef::as_ref), Some(place), "{version}");
        for (kind, target) in [
            ("m.room.redaction", json!(1)),
            ("m.room.redaction", json!("top")),
            ("m.room.message", json!("$top")),
        ] {
            let other = json!({"type": kind, "redacts": target, "content": {"redacts": target}});
            let pdu = parse(&message_with(version, other), version).unwrap();
            assert_eq!(pdu.redacts(), None, "{version}");
        }
    }
}

/// What an attacker would send: it must cost what its bytes cost, not their square.
#[test]
fn the_worst_of_events_is_read_quickly() {
    let started = std::time::Instant::now();
    let long_name = format!("{{\"{}\":[{}1.5]}}", "n".repeat(100_000), "1.5,".repeat(60_000));
    let deep = format!("{}{}1.5{}", "[".repeat(98), "1.5,".repeat(90_000), "]".repeat(98));
    let names: String = (0..30_000).map(|it| format!("\"{it}\":1.5,")).collect();
    for body in [long_name, deep, format!("{{{names}\"\":1}}")] {
        for version in [V1, V6] {
            assert!(with_body(version, &body).is_err());
        }
    }
    let seconds = started.elapsed().as_secs();
    assert!(seconds < 20, "took {seconds} s");
}
