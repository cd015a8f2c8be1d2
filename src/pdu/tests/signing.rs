//! Who has to sign, what a signature says, and the keys servers publish.

use backscroll_matrix::VerifyKey;
use ed25519_dalek::{Signer, SigningKey};
use ruma::serde::{Base64, base64::Standard};
use serde_json::{Value, json};

use super::{message_with, object, parse};
use crate::pdu::{
    BadSignature, KeyRing, Pdu, RoomVersion, ServerKey, SignatureCheck, required_servers,
    verify_signatures,
};
use RoomVersion::{V1, V3, V4, V5, V7, V8, V10, V12};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn base64(bytes: &[u8]) -> String {
    Base64::<Standard, _>::new(bytes).encode()
}

/// The public half of [`key`], good until 1,000: the time of `message()`.
fn public(seed: u8) -> Option<ServerKey> {
    let key = VerifyKey::from_bytes(key(seed).verifying_key().as_bytes()).unwrap();
    Some(ServerKey { key, valid_until_ts: 1_000 })
}

/// The event with these signatures, each made by the key of that seed.
fn signed(mut event: Value, version: RoomVersion, by: &[(&str, &str, u8)]) -> Pdu {
    event["signatures"] = json!({});
    let text = parse(&event, version).unwrap().signed_text().unwrap();
    for (server, key_id, seed) in by {
        let signature = key(*seed).sign(text.as_bytes()).to_bytes();
        event["signatures"][server][key_id] = json!(base64(&signature));
    }
    parse(&event, version).unwrap()
}

/// Server `s` has the keys `ed25519:1` and `ed25519:2`, server `t` has `ed25519:3`.
fn check(pdu: &Pdu) -> SignatureCheck {
    verify_signatures(pdu, &|server, key_id| match (server, key_id) {
        ("s", "ed25519:1") => public(1),
        ("s", "ed25519:2") => public(2),
        ("t", "ed25519:3") => public(3),
        _ => None,
    })
}

fn forged(server: &str, key_id: &str) -> SignatureCheck {
    invalid(server, BadSignature::Forged { key_id: key_id.to_owned() })
}

fn invalid(server: &str, reason: BadSignature) -> SignatureCheck {
    SignatureCheck::Invalid { server: crate::pdu::OpaqueServerName::parse(server).unwrap(), reason }
}

fn unknown(server: &str) -> SignatureCheck {
    SignatureCheck::Unknown { server: crate::pdu::OpaqueServerName::parse(server).unwrap() }
}

#[test]
fn every_known_key_must_fit_and_one_must_be_there() {
    let event = || message_with(V10, json!({}));
    for (by, says) in [
        (&[("s", "ed25519:1", 1)][..], SignatureCheck::Valid),
        (&[("s", "ed25519:1", 1), ("s", "ed25519:2", 2)], SignatureCheck::Valid),
        (&[("s", "ed25519:1", 1), ("s", "ed25519:old", 9)], SignatureCheck::Valid),
        (&[("s", "ed25519:1", 1), ("t", "ed25519:3", 9)], SignatureCheck::Valid),
        (&[("s", "ed25519:1", 1), ("s", "ed25519:2", 9)], forged("s", "ed25519:2")),
        (&[("s", "ed25519:1", 2)], forged("s", "ed25519:1")),
        (&[("s", "ed25519:old", 9)], unknown("s")),
        (&[], invalid("s", BadSignature::Missing)),
        (&[("t", "ed25519:3", 3)], invalid("s", BadSignature::Missing)),
        (&[("s", "curve:1", 1)], invalid("s", BadSignature::Missing)),
        (&[("s", "ed25519:policy_server", 1)], invalid("s", BadSignature::Missing)),
        (&[("s", "ed25519:policy_server", 9), ("s", "ed25519:1", 1)], SignatureCheck::Valid),
    ] {
        assert_eq!(check(&signed(event(), V10, by)), says, "{by:?}");
    }
}

#[test]
fn a_signature_is_for_the_redacted_event() {
    let mut pdu = signed(message_with(V10, json!({})), V10, &[("s", "ed25519:1", 1)]);
    for _ in 0..2 {
        assert_eq!(check(&pdu), SignatureCheck::Valid);
        pdu = pdu.redacted().unwrap();
    }
    let mut event: Value = serde_json::from_slice(pdu.bytes_as_received()).unwrap();
    event["content"] = json!({"body": "another"});
    assert_eq!(check(&parse(&event, V10).unwrap()), SignatureCheck::Valid);
    event["depth"] = json!(8);
    assert_eq!(check(&parse(&event, V10).unwrap()), forged("s", "ed25519:1"));
}

#[test]
fn a_signature_that_is_none_is_bad_only_under_a_known_key() {
    for not_one in [json!(1), json!("!"), json!("AAAA"), json!(null), json!({})] {
        let known = json!({"signatures": {"s": {"ed25519:1": not_one}}});
        let pdu = parse(&message_with(V10, known), V10).unwrap();
        assert_eq!(check(&pdu), forged("s", "ed25519:1"));
        let other = json!({"signatures": {"s": {"ed25519:9": not_one}}});
        assert_eq!(check(&parse(&message_with(V10, other), V10).unwrap()), unknown("s"));
    }
    for signatures in [json!({"s": []}), json!({"s": {}}), json!({"s": null})] {
        let pdu = parse(&message_with(V10, json!({"signatures": signatures})), V10).unwrap();
        assert_eq!(check(&pdu), invalid("s", BadSignature::Missing));
    }
}

#[test]
fn every_form_of_base64_is_accepted() {
    let event = message_with(V10, json!({}));
    let pdu = signed(event, V10, &[("s", "ed25519:1", 1)]);
    let event: Value = serde_json::from_slice(pdu.bytes_as_received()).unwrap();
    let text = event["signatures"]["s"]["ed25519:1"].as_str().unwrap().to_owned();
    let (rest, last) = text.split_at(text.len() - 1);
    // The last character stands for two bits; of the other four, others read nothing.
    let trailing = format!("{rest}{}", char::from(last.as_bytes()[0] + 1));
    let url_safe = text.replace('+', "-").replace('/', "_");
    for form in [format!("{text}=="), trailing, format!("{url_safe}=="), url_safe] {
        let mut event = event.clone();
        event["signatures"]["s"]["ed25519:1"] = json!(form);
        assert_eq!(check(&parse(&event, V10).unwrap()), SignatureCheck::Valid, "{form}");
    }
}

#[test]
fn a_key_must_be_valid_at_the_time_of_the_event_from_version_5() {
    let at = |version, time| {
        let event = message_with(version, json!({"origin_server_ts": time}));
        let by = [("s", "ed25519:1", 1), ("t", "ed25519:3", 3)];
        let mut event = event;
        if version == V1 {
            event["event_id"] = json!("$e:t");
        }
        check(&signed(event, version, &by))
    };
    for version in [V1, V3, V4, V5, V12] {
        assert_eq!(at(version, 1_000), SignatureCheck::Valid);
        let says = if version < V5 { SignatureCheck::Valid } else { unknown("s") };
        assert_eq!(at(version, 1_001), says, "{version}");
    }
}

#[test]
fn who_has_to_sign_depends_on_the_version() {
    let names = |version, members| {
        let pdu = parse(&message_with(version, members), version).unwrap();
        let servers = required_servers(&pdu);
        servers.map(|it| it.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    let member = |content: Value| json!({"type": "m.room.member", "content": content});
    let restricted = |user: Value| {
        member(json!({"membership": "join", "join_authorised_via_users_server": user}))
    };
    assert_eq!(names(V1, json!({"event_id": "$e:t:1"})).unwrap(), "s t:1");
    assert_eq!(names(V1, json!({"event_id": "$e"})), Err(BadSignature::NoServer));
    assert_eq!(names(V3, json!({"event_id": "$e:t"})).unwrap(), "s");
    assert_eq!(names(V7, restricted(json!("@w:t"))).unwrap(), "s");
    assert_eq!(names(V8, restricted(json!("@w:t"))).unwrap(), "s t");
    assert_eq!(names(V8, restricted(json!("w"))), Err(BadSignature::NoServer));
    assert_eq!(names(V8, restricted(json!(1))), Err(BadSignature::NoServer));
    let invite =
        |invite: Value| member(json!({"membership": "invite", "third_party_invite": invite}));
    assert_eq!(names(V10, invite(json!({}))).unwrap(), "");
    assert_eq!(names(V10, invite(json!("x"))).unwrap(), "s");
    let pdu = parse(&message_with(V8, restricted(json!("w"))), V8).unwrap();
    assert_eq!(check(&pdu), invalid("s", BadSignature::NoServer));
    let event = message_with(V8, restricted(json!("@w:t")));
    let one = signed(event.clone(), V8, &[("s", "ed25519:1", 1)]);
    assert_eq!(check(&one), invalid("t", BadSignature::Missing));
    let both = signed(event.clone(), V8, &[("s", "ed25519:1", 1), ("t", "ed25519:x", 3)]);
    assert_eq!(check(&both), unknown("t"));
    let both = signed(event, V8, &[("s", "ed25519:x", 1), ("t", "ed25519:3", 9)]);
    assert_eq!(check(&both), forged("t", "ed25519:3"));
}

/// <https://spec.matrix.org/v1.19/appendices/#signing-events>
#[test]
fn signatures_are_those_of_the_specification() {
    let minimal = r#"{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,
        "prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{
        "ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
        }},"type":"X","unsigned":{"age_ts":1000000}}"#;
    let redactable = r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain",
        "hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain",
        "origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":
        "@u:domain","signatures":{"domain":{"ed25519:1":
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},
        "unsigned":{"age_ts":1000000}}"#;
    let key = VerifyKey::read("XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI").unwrap();
    let verify_key = ServerKey { key, valid_until_ts: u64::MAX };
    let pdu = Pdu::parse(minimal.as_bytes(), V10).unwrap();
    assert_eq!(verify_signatures(&pdu, &|_, _| Some(verify_key)), SignatureCheck::Valid);
    assert!(pdu.content_hash_matches());
    // The second is no whole event, so it is read by the function behind the parser of events.
    let json = crate::pdu::read::parse_json(redactable, true).ok().unwrap().value;
    let text = json.redacted_signed_text(&V1.rules().redaction).unwrap();
    let signature = object(redactable)["signatures"].as_object().unwrap()["domain"]
        .as_object()
        .unwrap()["ed25519:1"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(verify_key.verifies(&text, &signature));
}

/// An answer of server `s`, signed with `key(1)`.
fn answer() -> Value {
    let public = base64(key(1).verifying_key().as_bytes());
    let old = base64(key(2).verifying_key().as_bytes());
    let mut answer = json!({
        "server_name": "s",
        "valid_until_ts": 50,
        "verify_keys": {"ed25519:1": {"key": public}},
        "old_verify_keys": {"ed25519:0": {"key": old, "expired_ts": 40}},
    });
    let signature = base64(&key(1).sign(answer.to_string().as_bytes()).to_bytes());
    answer["signatures"] = json!({"s": {"ed25519:1": signature}});
    answer
}

#[test]
fn a_key_ring_holds_many_servers_and_names_what_it_leaves_out() {
    let mut changed = answer();
    changed["valid_until_ts"] = json!(51);
    let file = json!({"s": answer(), "t": answer(), "u": 1, "v": changed});
    let ring = KeyRing::parse(file.to_string().as_bytes()).unwrap();
    assert_eq!((ring.len(), ring.is_empty()), (1, false));
    assert_eq!(ring.key("s", "ed25519:1").unwrap().valid_until_ts, 50);
    assert_eq!(ring.key("s", "ed25519:0").unwrap().valid_until_ts, 40);
    assert_eq!(ring.key("s", "ed25519:2"), None);
    assert_eq!(ring.key("t", "ed25519:1"), None);
    let left_out: Vec<&str> = ring.left_out().collect();
    assert_eq!(
        left_out,
        [
            "keys of t: `server_name` names another server",
            "keys of u: not a JSON object",
            "keys of v: the answer is not signed by a key that it lists",
        ]
    );
    assert!(KeyRing::parse(b"[]").is_err());
}

#[test]
fn a_signature_by_the_key_that_everybody_knows_is_bad() {
    let known = VerifyKey::read("l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og").unwrap();
    let pdu = signed(message_with(V10, json!({})), V10, &[("s", "ed25519:1", 1)]);
    let check =
        verify_signatures(&pdu, &|_, _| Some(ServerKey { key: known, valid_until_ts: u64::MAX }));
    let key_id = "ed25519:1".to_owned();
    assert_eq!(check, invalid("s", BadSignature::PublicKnowledge { key_id }));
}
