//! Files of pinned keys: what is taken, what is refused.

use backscroll_gateway::keys::PinnedKeys;
use serde_json::{Value, json};

use crate::support::{NOW_MS, peer::Peer};

fn read(file: &Value) -> Result<usize, String> {
    let keys = PinnedKeys::from_json(file.to_string().as_bytes());
    keys.map(|keys| keys.len()).map_err(|error| error.to_string())
}

#[test]
fn a_file_of_several_servers() {
    let (a, b) = (Peer::new("a.example", 1), Peer::new("b.example", 2));
    let file = json!({ "a.example": a.key_answer(), "b.example": b.key_answer() });
    assert_eq!(read(&file), Ok(2));
    assert_eq!(read(&json!({})), Ok(0));
    let keys = PinnedKeys::from_json(file.to_string().as_bytes()).unwrap();
    assert_eq!(keys.expired(NOW_MS).count(), 0);
    assert_eq!(keys.expired(NOW_MS + 1).count(), 2);
}

#[test]
fn one_fault_refuses_the_file() {
    let peer = Peer::new("a.example", 1);
    let good = peer.key_answer();
    // Changed and signed anew.
    let signed = |change: fn(&mut Value)| {
        let mut answer = good.clone();
        change(&mut answer);
        json!({ "a.example": peer.sign(answer) })
    };
    let unsigned_change = |change: fn(&mut Value)| {
        let mut answer = good.clone();
        change(&mut answer);
        json!({ "a.example": answer })
    };
    for (file, fault) in [
        (json!([]), "not a JSON object of server names"),
        (json!({ "a b": good }), "\"a b\" is no server name"),
        (json!({ "b.example": good }), "`server_name` names another server"),
        (json!({ "a.example": 1 }), "`server_name` is missing or malformed"),
        (signed(|answer| answer["valid_until_ts"] = json!(-1)), "`valid_until_ts`"),
        (signed(|answer| answer["valid_until_ts"] = json!("1")), "`valid_until_ts`"),
        (signed(|answer| answer["verify_keys"] = json!([])), "`verify_keys`"),
        (signed(|answer| answer["verify_keys"] = json!({})), "no ed25519 key"),
        (signed(|answer| answer["verify_keys"] = json!({ "rsa:1": {} })), "no ed25519 key"),
        (
            signed(|answer| answer["verify_keys"]["ed25519:k1"]["key"] = json!("AAAA")),
            "key \"ed25519:k1\" is malformed",
        ),
        (
            signed(|answer| {
                answer["verify_keys"]["ed25519:a-b"] = answer["verify_keys"]["ed25519:k1"].clone();
            }),
            "key \"ed25519:a-b\" is malformed",
        ),
        (
            // Listed, but it did not sign.
            signed(|answer| {
                answer["verify_keys"]["ed25519:k2"]["key"] = json!(Peer::new("", 2).public_key());
            }),
            "key \"ed25519:k2\" did not sign",
        ),
        (
            unsigned_change(|answer| answer["valid_until_ts"] = json!(1)),
            "key \"ed25519:k1\" did not sign",
        ),
        (unsigned_change(|answer| answer["signatures"] = json!({})), "`signatures`"),
        (
            unsigned_change(|answer| answer["signatures"]["a.example"] = json!({})),
            "key \"ed25519:k1\" did not sign",
        ),
    ] {
        let error = read(&file).unwrap_err();
        assert!(error.contains(fault), "{fault}: {error}");
    }
    assert!(PinnedKeys::from_json(b"{").is_err());
    assert!(PinnedKeys::from_json(br#"{"a.example":{"a":1.5}}"#).is_err());
}

/// `old_verify_keys` and `unsigned` change nothing; several keys sign together.
#[test]
fn what_real_servers_add() {
    let (first, second) = (Peer::new("a.example", 1), Peer::new("a.example", 2));
    let answer = json!({
        "server_name": "a.example",
        "valid_until_ts": NOW_MS,
        "verify_keys": {
            "ed25519:k1": { "key": first.public_key() },
            "ed25519:k2": { "key": second.public_key() },
        },
        "old_verify_keys": { "ed25519:k0": { "key": "whatever", "expired_ts": 1 } },
    });
    let mut answer = second.sign(first.sign(answer));
    answer["unsigned"] = json!({ "age": 1 });
    assert_eq!(read(&json!({ "a.example": answer })), Ok(1));
}
