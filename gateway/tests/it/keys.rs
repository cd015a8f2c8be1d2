//! Files of pinned keys: which entries are used, and which are refused.

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

/// Invalid entries are reported and left out, and the others are used. Keys of a server whose entry is left
/// out are not fetched.
#[test]
fn what_cannot_be_used_is_left_out() {
    let (peer, other) = (Peer::new("a.example", 1), Peer::new("b.example", 2));
    let good = peer.key_answer();
    // Changed and signed again.
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
    for (mut file, fault, servers) in [
        (json!({ "a b": good }), "\"a b\" is not a server name", 0),
        (json!({ "c.example": good }), "keys of c.example: `server_name` names another server", 0),
        (json!({ "a.example": 1 }), "keys of a.example: not a JSON object", 0),
        (signed(|answer| answer["valid_until_ts"] = json!("1")), "`valid_until_ts`", 0),
        (signed(|answer| answer["verify_keys"] = json!([])), "`verify_keys`", 0),
        (signed(|answer| answer["verify_keys"] = json!({})), "no ed25519 key", 0),
        (signed(|answer| answer["verify_keys"] = json!({ "rsa:1": {} })), "no ed25519 key", 0),
        (
            signed(|answer| answer["verify_keys"]["ed25519:k2"]["key"] = json!("AAAA")),
            "keys of a.example: key \"ed25519:k2\" is not an ed25519 key in base64",
            1,
        ),
        (unsigned_change(|answer| answer["valid_until_ts"] = json!(1)), "is not signed", 0),
        (unsigned_change(|answer| answer["signatures"] = json!({})), "is not signed", 0),
    ] {
        file["b.example"] = other.key_answer();
        let keys = PinnedKeys::from_json(file.to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), 1 + servers, "{fault}");
        let left_out: Vec<&str> = keys.left_out().collect();
        assert!(matches!(left_out[..], [said] if said.contains(fault)), "{fault}: {left_out:?}");
    }
    assert!(PinnedKeys::from_json(b"{").is_err());
    assert!(PinnedKeys::from_json(b"[]").is_err());
}

/// `old_verify_keys` and `unsigned` are ignored; several keys may sign.
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
