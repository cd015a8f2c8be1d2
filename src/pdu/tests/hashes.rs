//! Ids, hashes and redacted forms; the vectors are those of the specification where it has any.

use serde_json::{Value, json};

use super::{message_with, object, parse};
use crate::pdu::{
    Pdu, RoomVersion,
    canonical::{self, OddMembers},
    read::parse_json,
    redact_stored,
};
use RoomVersion::{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12};

/// <https://spec.matrix.org/v1.19/appendices/#examples>
#[test]
fn canonical_json_is_that_of_the_specification() {
    for (text, canonical) in [
        ("{}", "{}"),
        (r#"{"one":1,"two":"Two"}"#, r#"{"one":1,"two":"Two"}"#),
        (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":
            "John Doe","three_pids":[{"medium":"email","address":"john.doe@example.org"},{"medium":
            "msisdn","address":"123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{"a":"日本語"}"#, r#"{"a":"日本語"}"#),
        (r#"{"本":2,"日":1}"#, r#"{"日":1,"本":2}"#),
        (r#"{"a":"\u65E5"}"#, r#"{"a":"日"}"#),
        (r#"{"a":null}"#, r#"{"a":null}"#),
        // Beyond the vectors: order by code point, not by UTF-16 unit, and the escapes.
        ("{\"\u{1f600}\":1,\"\u{ffff}\":2}", "{\"\u{ffff}\":2,\"\u{1f600}\":1}"),
        (
            r#"{"a":"\u0000\u001F\u0008\u0009\u000a\u000c\u000d\u0022\u005c\/\u007f\u2028"}"#,
            "{\"a\":\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\u{7f}\u{2028}\"}",
        ),
    ] {
        for strict in [true, false] {
            let Ok(parsed) = parse_json(text, strict) else { panic!("{text}") };
            assert_eq!(parsed.value.canonical(), canonical);
        }
        let ruma = serde_json::to_string(&object(text)).unwrap();
        assert_eq!(canonical::write(&object(text), &OddMembers::new(), &[]), ruma);
    }
    // The specification's last vector, which only old rooms can hold. It wants 1e10 written as an
    // integer; every homeserver that ever signed one wrote it as Python does.
    let Ok(parsed) = parse_json(r#"{"a": -0, "b": 1e10}"#, false) else { panic!() };
    assert_eq!(parsed.value.canonical(), r#"{"a":0,"b":10000000000.0}"#);
}

/// A reference hash whose two alphabets differ: found by counting.
#[test]
fn the_id_is_written_in_the_alphabet_of_the_version() {
    let id = |version| {
        let event = message_with(version, json!({"origin_server_ts": 3}));
        parse(&event, version).unwrap().event_id().as_str().to_owned()
    };
    let mut differ = false;
    for version in RoomVersion::ALL.into_iter().filter(|it| *it >= V3) {
        let id = id(version);
        assert_eq!(id.len(), 44, "{version}");
        differ |= id.contains(['-', '_']);
        if version == V3 {
            assert!(!id.contains(['-', '_']), "{id}");
        } else {
            assert!(!id.contains(['+', '/']), "{id}");
        }
    }
    let standard = id(V3);
    assert_eq!(id(V4), standard.replace('+', "-").replace('/', "_"));
    assert!(differ, "choose another time: {standard}");
    for version in [V1, V2] {
        assert_eq!(id(version), "$e:s");
    }
}

#[test]
fn ids_and_hashes_are_those_of_ruma() {
    for version in RoomVersion::ALL {
        for event_type in ["m.room.message", "m.room.member", "m.room.redaction"] {
            let members = json!({"type": event_type, "origin": "s", "redacts": "$x", "x": [1]});
            let pdu = parse(&message_with(version, members), version).unwrap();
            let object = &pdu.json.object;
            let reference = ruma::signatures::reference_hash(object, version.rules()).unwrap();
            if version >= V3 {
                assert_eq!(pdu.event_id().as_str(), format!("${reference}"));
            }
            assert!(!pdu.content_hash_matches());
            let hash = ruma::signatures::content_hash(object).unwrap().encode();
            // As others read it: either alphabet, padded or not, and of the last character's six
            // bits only the first four.
            let url_safe = hash.replace('+', "-").replace('/', "_");
            let (rest, last) = hash.split_at(hash.len() - 1);
            let trailing = format!("{rest}{}", char::from(last.as_bytes()[0] + 1));
            for hash in [format!("{hash}="), trailing, url_safe, hash] {
                let mut event: Value = serde_json::from_slice(pdu.bytes_as_received()).unwrap();
                event["hashes"]["sha256"] = json!(hash);
                event["signatures"] = json!({});
                assert!(parse(&event, version).unwrap().content_hash_matches());
                event["depth"] = json!(8);
                assert!(!parse(&event, version).unwrap().content_hash_matches());
            }
        }
    }
}

/// The content members that redaction keeps, of all that any version keeps and one that none does.
#[test]
fn redaction_keeps_what_the_version_keeps() {
    const POWER: &str = "ban events events_default kick redact state_default users users_default";
    let power_11: &str = &format!("{POWER} invite");
    for (event_type, versions, kept) in [
        ("m.room.member", &[V1, V5, V6, V7, V8][..], "membership"),
        ("m.room.member", &[V9, V10], "membership join_authorised_via_users_server"),
        (
            "m.room.member",
            &[V11, V12],
            "membership join_authorised_via_users_server third_party_invite",
        ),
        ("m.room.create", &[V1, V6, V8, V10], "creator"),
        ("m.room.join_rules", &[V1, V5, V6, V7], "join_rule"),
        ("m.room.join_rules", &[V8, V9, V10, V11, V12], "join_rule allow"),
        ("m.room.power_levels", &[V1, V6, V8, V10], POWER),
        ("m.room.power_levels", &[V11, V12], power_11),
        ("m.room.aliases", &[V1, V5], "aliases"),
        ("m.room.aliases", &[V6, V8, V9, V11, V12], ""),
        ("m.room.history_visibility", &[V1, V6, V8, V9, V11, V12], "history_visibility"),
        ("m.room.redaction", &[V1, V6, V8, V10], ""),
        ("m.room.redaction", &[V11, V12], "redacts"),
        ("m.room.message", &[V1, V6, V8, V9, V11, V12], ""),
        ("m.room.server_acl", &[V1, V6, V8, V9, V11, V12], ""),
    ] {
        for version in versions {
            let mut content =
                json!({"other": {"a": 1}, "third_party_invite": {"signed": {}, "b": 2}});
            for name in
                "membership join_authorised_via_users_server creator join_rule allow aliases \
                         history_visibility redacts invite"
                    .split(' ')
                    .chain(POWER.split(' '))
            {
                content[name] = json!(["kept", name]);
            }
            let mut expected: Vec<_> = kept.split_whitespace().collect();
            expected.sort_unstable();
            let event = message_with(*version, json!({"type": event_type, "content": content}));
            let redacted = parse(&event, *version).unwrap().redacted().unwrap();
            let names: Vec<_> = redacted.content().keys().collect();
            assert_eq!(names, expected, "{event_type} in {version}");
        }
    }
}

#[test]
fn redaction_keeps_the_top_level_members_of_the_version() {
    let extra = json!({"origin": "s", "membership": "join", "prev_state": [], "redacts": "$x",
        "state_key": "", "event_id": "$e:s", "other": 1, "age_ts": 1, "unsigned": {"a": 1}});
    let kept = "auth_events content depth event_id hashes origin_server_ts prev_events room_id \
                sender signatures state_key type";
    for version in RoomVersion::ALL {
        let event = message_with(version, extra.clone());
        let redacted = parse(&event, version).unwrap().redacted().unwrap();
        let object = object(&redacted.canonical_json());
        let names: Vec<_> = object.keys().map(String::as_str).collect();
        let mut expected: Vec<_> = kept.split_whitespace().collect();
        if version < V11 {
            expected.extend(["membership", "origin", "prev_state"]);
            expected.sort_unstable();
        }
        assert_eq!(names, expected, "{version}");
    }
}

#[test]
fn the_create_content_is_kept_whole_from_version_11() {
    let create = json!({"type": "m.room.create", "content": {"any": {"thing": [1]}}});
    let mut event = message_with(V11, create);
    assert_eq!(parse(&event, V11).unwrap().redacted().unwrap().content().len(), 1);
    event.as_object_mut().unwrap().remove("room_id");
    assert_eq!(parse(&event, V12).unwrap().redacted().unwrap().content().len(), 1);
}

/// Three ways to write it; the homeservers agree on the first two, and on the third we side with
/// Synapse, so ids and signatures are those of an event without it.
#[test]
fn a_third_party_invite_that_is_no_object_is_dropped() {
    let member = |invite: Value| {
        let content = json!({"membership": "invite", "third_party_invite": invite});
        let members = json!({"type": "m.room.member", "state_key": "@v:s", "content": content});
        parse(&message_with(V11, members), V11).unwrap()
    };
    let kept = |pdu: &Pdu| {
        let redacted = pdu.redacted().unwrap();
        assert_eq!(redacted.event_id(), pdu.event_id());
        let stored = redact_stored(pdu.bytes_as_received(), V11).unwrap();
        assert_eq!(stored, redacted.bytes_as_received());
        redacted.content().get("third_party_invite").map(ToString::to_string)
    };
    let whole = member(json!({"signed": {"a": 1}, "display_name": "x"}));
    assert_eq!(kept(&whole).as_deref(), Some(r#"{"signed":{"a":1}}"#));
    assert_eq!(kept(&member(json!({"display_name": "x"}))).as_deref(), Some("{}"));
    let content = json!({"membership": "invite"});
    let members = json!({"type": "m.room.member", "state_key": "@v:s", "content": content});
    let without = parse(&message_with(V11, members), V11).unwrap();
    for odd in [json!("x"), json!([{"signed": 1}]), json!(1), json!(null), json!(true)] {
        let pdu = member(odd);
        assert_eq!(kept(&pdu), None);
        assert_eq!(pdu.event_id(), without.event_id());
        assert_eq!(pdu.signed_text(), without.signed_text());
        assert!(pdu.canonical_json().contains("third_party_invite"));
    }
}

#[test]
fn odd_numbers_survive_redaction_where_redaction_keeps_them() {
    let text = r#"{"type":"m.room.power_levels","content":{"ban":50.0,"users":{"@a:s":1e2,"@b:s":
        9007199254740993},"other":1.5},"x":2.5,"depth":9007199254740993}"#;
    let redacted = redact_stored(text.as_bytes(), V5).unwrap();
    let expected = r#"{"content":{"ban":50.0,"users":{"@a:s":100.0,"@b:s":9007199254740993}},"depth":9007199254740993,"type":"m.room.power_levels"}"#;
    assert_eq!(String::from_utf8(redacted).unwrap(), expected);
    assert!(redact_stored(text.as_bytes(), V6).is_err());
    assert!(redact_stored(b"{}", V5).is_err());
}
