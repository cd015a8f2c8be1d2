//! The keys of servers, over a real socket: an answer that is older than the one held, which a
//! gateway may bring that has lost its way, does not undo a newer one.

use backscroll::proto::v1 as pb;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::support::{clients::Clients, process::Process};

/// An answer that lists one key and is signed by it.
fn answer(seed: u8, valid_until_ts: u64) -> String {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let id = format!("ed25519:k{seed}");
    let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
    let mut answer = json!({
        "server_name": "one.example",
        "valid_until_ts": valid_until_ts,
        "verify_keys": { &id: { "key": public } },
        "old_verify_keys": {},
    });
    // Members in order, no spaces: what serde_json writes is canonical here.
    let signature = key.sign(answer.to_string().as_bytes()).to_bytes();
    answer["signatures"] = json!({ "one.example": { id: STANDARD_NO_PAD.encode(signature) } });
    answer.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let mut keys = Clients::connect(&service).await.keys;
    for (put, held) in [
        (answer(1, 2_000), 2_000),
        (answer(2, 1_999), 2_000),
        // As long as the one held: the last word counts.
        (answer(3, 2_000), 2_000),
        (answer(4, 2_001), 2_001),
        (answer(1, 2_000), 2_001),
    ] {
        keys.put_server_keys(pb::PutServerKeysRequest { answer: put.clone().into() })
            .await
            .unwrap();
        let question = pb::GetServerKeysRequest { server_name: "one.example".to_owned() };
        let answer = keys.get_server_keys(question).await.unwrap().into_inner().answer;
        let read: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(read["valid_until_ts"], held);
        let is_taken = put.contains(&format!(":{held},")) && answer == put.as_bytes();
        assert_eq!(is_taken, put.contains(&held.to_string()), "{put}");
    }
}
