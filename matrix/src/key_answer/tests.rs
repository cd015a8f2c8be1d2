//! Answers of every kind, each as others treat it.

use ::base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::*;

/// What everybody knows the private half of.
const KNOWN: &str = "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> String {
    STANDARD_NO_PAD.encode(key(seed).verifying_key().as_bytes())
}

/// An answer of server `s` with the key `ed25519:1`, changed, then signed by the keys of these
/// ids and seeds. What is written here is canonical already.
fn answer(change: impl FnOnce(&mut Value), by: &[(&str, u8)]) -> Value {
    let mut answer = json!({
        "server_name": "s",
        "valid_until_ts": 50,
        "verify_keys": {"ed25519:1": {"key": public(1)}},
        "old_verify_keys": {"ed25519:0": {"key": public(2), "expired_ts": 40}},
    });
    change(&mut answer);
    let text = answer.to_string();
    answer["signatures"] = json!({"s": {}});
    for (key_id, seed) in by {
        let made = key(*seed).sign(text.as_bytes()).to_bytes();
        answer["signatures"]["s"][key_id] = json!(STANDARD_NO_PAD.encode(made));
    }
    answer
}

/// The ids of the keys in use, and what was left out.
fn read(answer: &Value) -> Result<(Vec<String>, Vec<String>), AnswerFault> {
    let read = KeyAnswer::parse(answer.to_string().as_bytes())?;
    let left_out = read.left_out.iter().map(ToString::to_string).collect();
    Ok((read.verify_keys.into_keys().collect(), left_out))
}

#[test]
fn what_is_good_is_used_whatever_stands_beside_it() {
    let one = &[("ed25519:1", 1)][..];
    let lists =
        |id: &'static str, entry: Value| move |it: &mut Value| it["verify_keys"][id] = entry;
    for (what, answer, ids, left_out) in [
        ("as it is", answer(|_| {}, one), "ed25519:1", ""),
        ("another algorithm", answer(lists("rsa:1", json!(1)), one), "ed25519:1", ""),
        (
            "a second key that is none",
            answer(lists("ed25519:2", json!({"key": "AAAA"})), one),
            "ed25519:1",
            "key \"ed25519:2\" is not an ed25519 key in base64",
        ),
        (
            "a second key that is no object",
            answer(lists("ed25519:2", json!(null)), one),
            "ed25519:1",
            "key \"ed25519:2\" is not an ed25519 key in base64",
        ),
        (
            "a weak one",
            answer(lists("ed25519:2", json!({"key": STANDARD_NO_PAD.encode([0; 32])})), one),
            "ed25519:1",
            "key \"ed25519:2\" is a weak key",
        ),
        (
            "a second key that has not signed",
            answer(lists("ed25519:2", json!({"key": public(2)})), one),
            "ed25519:1 ed25519:2",
            "",
        ),
        (
            "a second key whose signature is another's",
            answer(
                lists("ed25519:2", json!({"key": public(2)})),
                &[("ed25519:1", 1), ("ed25519:2", 3)],
            ),
            "ed25519:1",
            "key \"ed25519:2\" has not made the signature under its id",
        ),
        (
            "an old key without a time",
            answer(|it| it["old_verify_keys"]["ed25519:x"] = json!({"key": public(3)}), one),
            "ed25519:1",
            "key \"ed25519:x\" has no `expired_ts`",
        ),
        ("no old keys", answer(|it| it["old_verify_keys"] = json!(null), one), "ed25519:1", ""),
        (
            "a signature under an id that is not listed",
            answer(|_| {}, &[("ed25519:1", 1), ("ed25519:9", 9)]),
            "ed25519:1",
            "",
        ),
    ] {
        let (read_ids, read_left_out) = read(&answer).unwrap_or_else(|it| panic!("{what}: {it}"));
        assert_eq!((read_ids.join(" "), read_left_out.join(" ")), (ids.into(), left_out.into()));
    }
}

#[test]
fn ids_of_every_kind() {
    for id in ["a-b", "a+b/c=", "a.b", "1", "é", "", "a b", "_"] {
        let id = format!("ed25519:{id}");
        let answer =
            answer(|it| it["verify_keys"] = json!({ &id: {"key": public(1)} }), &[(&id, 1)]);
        assert_eq!(read(&answer), Ok((vec![id], Vec::new())));
    }
}

#[test]
fn what_no_key_has_signed_is_none() {
    use AnswerFault::{Member, NoKey, NotSigned};
    let one = &[("ed25519:1", 1)][..];
    let set = |name: &'static str, value: Value| move |it: &mut Value| it[name] = value;
    let mut changed = answer(|_| {}, one);
    changed["valid_until_ts"] = json!(51);
    for (what, answer, fault) in [
        ("changed", changed, NotSigned),
        ("by nobody", answer(|_| {}, &[]), NotSigned),
        ("by another key", answer(|_| {}, &[("ed25519:1", 2)]), NotSigned),
        ("by an old key", answer(|_| {}, &[("ed25519:0", 2)]), NotSigned),
        ("no keys", answer(set("verify_keys", json!({})), one), NoKey),
        ("keys in a list", answer(set("verify_keys", json!([])), one), Member("verify_keys")),
        ("no name", answer(set("server_name", json!(1)), one), Member("server_name")),
        ("no time", answer(set("valid_until_ts", json!("1")), one), Member("valid_until_ts")),
        (
            "by the key that everybody knows",
            answer(set("verify_keys", json!({"ed25519:1": {"key": KNOWN}})), one),
            NoKey,
        ),
    ] {
        assert_eq!(read(&answer), Err(fault), "{what}");
    }
}

#[test]
fn too_many_keys_are_left_out() {
    let many = |it: &mut Value| {
        for nth in 0..200 {
            it["verify_keys"][format!("ed25519:9{nth:03}")] = json!({"key": public(3)});
        }
    };
    let (ids, left_out) = read(&answer(many, &[("ed25519:1", 1)])).unwrap();
    assert_eq!((ids.len(), left_out.len()), (MAX_KEYS, 201 - MAX_KEYS));
}

#[test]
fn odd_numbers_and_what_is_not_signed() {
    // Signed as Python writes it.
    let signed = r#"{"server_name":"s","valid_until_ts":50.0,"verify_keys":{"ed25519:1":{"key":"KEY"}},"x":[1e+22,0.1]}"#;
    let signed = signed.replace("KEY", &public(1));
    let made = STANDARD_NO_PAD.encode(key(1).sign(signed.as_bytes()).to_bytes());
    let sent = format!(
        r#"{{"x": [1e22, 0.10], "unsigned": {{"age": 0.5, "y": "\ud800"}}, "signatures":
        {{"s": {{"ed25519:1": "{made}"}}}}, {}"#,
        &signed.replace(r#","x":[1e+22,0.1]"#, "")[1..]
    );
    let read = KeyAnswer::parse(sent.as_bytes()).unwrap();
    assert_eq!((read.valid_until_ts, read.verify_keys.len()), (50, 1));
}

#[test]
fn who_has_signed_an_object() {
    let keys = KeyAnswer::parse(answer(|_| {}, &[("ed25519:1", 1)]).to_string().as_bytes());
    let keys = keys.unwrap();
    let have_signed = |by: &[(&str, u8)]| {
        let object = answer(|it| it["server_name"] = json!("other"), by).to_string();
        keys.have_signed(&SignedObject::parse(object.as_bytes()).unwrap())
    };
    assert!(have_signed(&[("ed25519:1", 1)]));
    assert!(have_signed(&[("ed25519:1", 1), ("ed25519:9", 9)]));
    assert!(!have_signed(&[("ed25519:1", 2)]));
    assert!(!have_signed(&[("ed25519:9", 1)]));
    assert!(!have_signed(&[]));
}
