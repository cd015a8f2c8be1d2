//! What holds for whatever comes over the wire.

use backscroll_matrix::cut_member;
use proptest::prelude::*;
use ruma::CanonicalJsonObject;
use serde_json::{Map, Value, json};

use super::{message_with, parse};
use crate::pdu::{
    Pdu, RoomVersion,
    canonical::{self, OddMembers},
    read::parse_json,
    redact_stored,
};

fn version() -> impl Strategy<Value = RoomVersion> {
    prop::sample::select(RoomVersion::ALL.to_vec())
}

/// Numbers as texts, so that those no Rust type holds are among them.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        "-?[1-9][0-9]{0,40}",
        "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
        prop::num::f64::NORMAL.prop_map(|it| format!("{it:e}")),
    ]
}

/// JSON texts, with odd numbers and doubled members in them or not.
fn json_text(odd: bool) -> impl Strategy<Value = String> {
    let number =
        if odd { number().boxed() } else { any::<i32>().prop_map(|it| it.to_string()).boxed() };
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        number,
        any::<String>().prop_map(|it| json!(it).to_string()),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let name = prop_oneof!["[a-c]", "unsigned", any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|it| format!("[{}]", it.join(" ,"))),
            prop::collection::vec((name, inner), 0..6).prop_map(move |members| {
                let mut seen = std::collections::BTreeSet::new();
                let members: Vec<_> = members
                    .into_iter()
                    .filter(|(name, _)| odd || seen.insert(name.clone()))
                    .map(|(name, value)| format!("{}: {value}", json!(name)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in version()) {
        drop(Pdu::parse(&bytes, version));
        drop(redact_stored(&bytes, version));
    }

    #[test]
    fn json_never_panics(text in json_text(true), version in version()) {
        drop(Pdu::parse(text.as_bytes(), version));
        drop(redact_stored(text.as_bytes(), version));
        drop(cut_member(&text, "unsigned"));
    }

    #[test]
    fn a_broken_event_never_panics(
        version in version(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = message_with(version, json!({"unsigned": {"a": 1}})).to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(pdu) = Pdu::parse(&bytes, version) {
            pdu.redacted().unwrap();
        }
    }

    /// Writing is the end of it: what is canonical is written as it was read.
    #[test]
    fn canonical_json_is_stable(text in json_text(true)) {
        let text = format!(r#"{{"x":{text}}}"#);
        if let Ok(first) = parse_json(&text, false) {
            let once = first.value.canonical();
            let Ok(second) = parse_json(&once, false) else { panic!("{once}") };
            prop_assert_eq!(&once, &second.value.canonical());
            prop_assert_eq!(first.value, second.value);
        }
    }

    #[test]
    fn canonical_json_is_that_of_ruma(text in json_text(false)) {
        let text = format!(r#"{{"x":{text}}}"#);
        let ruma: CanonicalJsonObject = serde_json::from_str(&text).unwrap();
        let written = canonical::write(&ruma, &OddMembers::new(), &[]);
        prop_assert_eq!(&written, &serde_json::to_string(&ruma).unwrap());
        let Ok(ours) = parse_json(&text, true) else { panic!("{text}") };
        prop_assert_eq!(ours.value.object, ruma);
    }

    /// The two readers agree wherever the strict one accepts.
    #[test]
    fn the_lenient_reader_reads_what_the_strict_one_reads(text in json_text(false)) {
        let text = format!(r#"{{"x":{text},"unsigned":1}}"#);
        let Ok(strict) = parse_json(&text, true) else { panic!("{text}") };
        let Ok(lenient) = crate::pdu::lenient::parse(&text) else { panic!("{text}") };
        prop_assert_eq!(strict.value, lenient.value);
        prop_assert!(strict.unsigned && lenient.unsigned);
    }

    #[test]
    fn redaction_is_final_and_keeps_the_id(
        version in version(),
        content in json_text(true),
        event_type in prop::sample::select(vec!["m.room.member", "m.room.power_levels",
            "m.room.redaction", "m.room.join_rules", "m.room.aliases", "x"]),
        name in prop::sample::select(vec!["users", "membership", "third_party_invite", "redacts",
            "allow", "aliases", "x"]),
    ) {
        let event = message_with(version, json!({"type": event_type, "content": {name: "HERE"}}));
        let text = event.to_string().replace(r#""HERE""#, &content);
        if let Ok(pdu) = Pdu::parse(text.as_bytes(), version) {
            prop_assert_eq!(pdu.bytes_as_received(), text.as_bytes());
            let redacted = pdu.redacted().unwrap();
            prop_assert_eq!(redacted.event_id(), pdu.event_id());
            prop_assert!(redacted.bytes_as_received() == redacted.canonical_json().as_bytes());
            prop_assert_eq!(redacted.signed_text().unwrap(), pdu.signed_text().unwrap());
            let again = Pdu::parse(redacted.bytes_as_received(), version).unwrap();
            prop_assert_eq!(again.event_id(), pdu.event_id());
            prop_assert_eq!(again.redacted().unwrap().canonical_json(), redacted.canonical_json());
            let stored = redact_stored(pdu.bytes_as_received(), version).unwrap();
            prop_assert_eq!(stored, redacted.bytes_as_received());
        } else {
            // The only value so short that a room version refuses.
            prop_assert!(content.len() > 2 || content == "-0");
        }
    }

    /// What is left has no such member and all others as they were.
    #[test]
    fn cutting_leaves_the_rest(text in json_text(false)) {
        let text = format!(r#" {{ "x" : {text}, "unsigned":{text} ,"y":1}}"#);
        let cut = cut_member(&text, "unsigned").unwrap();
        let mut expected: Map<String, Value> = serde_json::from_str(&text).unwrap();
        expected.remove("unsigned");
        prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&cut).unwrap(), expected);
    }

    #[test]
    fn the_order_of_members_does_not_matter(version in version(), seed in any::<u64>()) {
        let event = message_with(version, json!({"state_key": "", "x": {"b": 1, "a": 2}}));
        let pdu = parse(&event, version).unwrap();
        let mut members: Vec<_> = event.as_object().unwrap().iter().collect();
        members.rotate_left(usize::try_from(seed % 7).unwrap());
        let members: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        let other = Pdu::parse(format!("{{{}}}", members.join(",")).as_bytes(), version).unwrap();
        prop_assert_eq!(pdu.event_id(), other.event_id());
        prop_assert_eq!(pdu.canonical_json(), other.canonical_json());
    }
}
