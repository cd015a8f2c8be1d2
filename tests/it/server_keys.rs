//! The RPCs `PutServerKeys` and `GetServerKeys` over a real socket: a response that was fetched earlier
//! than the stored one does not replace it, whatever validity it claims, and no response is kept for
//! longer than seven days after it was fetched.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use backscroll::proto::v1 as pb;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{
    clients::Clients,
    failures::{Row, assert_failures},
    process::Process,
};

/// A request that stores keys of a server.
#[expect(clippy::disallowed_methods, reason = "the service compares with the wall clock")]
pub(crate) fn put_request(server_name: &str) -> pb::PutServerKeysRequest {
    let in_a_day = SystemTime::now() + Duration::from_hours(24);
    let valid_until = in_a_day.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let answer = answer_of(server_name, 1, u64::try_from(valid_until).unwrap());
    pb::PutServerKeysRequest { answer: answer.into(), fetched_ts: 0 }
}

/// A response with one key, signed by that key.
fn answer(seed: u8, valid_until_ts: u64) -> String {
    answer_of("one.example", seed, valid_until_ts)
}

/// A response of a server with one key, signed by that key.
fn answer_of(server_name: &str, seed: u8, valid_until_ts: u64) -> String {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let id = format!("ed25519:k{seed}");
    let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
    let mut answer = json!({
        "server_name": server_name,
        "valid_until_ts": valid_until_ts,
        "verify_keys": { &id: { "key": public } },
        "old_verify_keys": {},
    });
    // The members are in order and there are no spaces, so serde_json writes canonical JSON.
    let signature = key.sign(answer.to_string().as_bytes()).to_bytes();
    answer["signatures"] = json!({ server_name: { id: STANDARD_NO_PAD.encode(signature) } });
    answer.to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the service compares with the wall clock")]
async fn the_latest_fetch_counts_for_seven_days() {
    const DAY: u64 = 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let mut keys = Clients::connect(&service).await.keys;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    let (first, second, third) =
        (answer(1, now + 99 * DAY), answer(2, now + DAY), answer(3, now + 98 * DAY));
    for (put, fetched_ts, held) in [
        // Fetched too long ago, although the response claims to be valid.
        (&first, now - 8 * DAY, None),
        (&first, now - 6 * DAY, Some((&first, now - 6 * DAY))),
        // Fetched later, valid for a shorter time.
        (&second, now - 5 * DAY, Some((&second, now - 5 * DAY))),
        // Fetched earlier, valid for a longer time.
        (&first, now - 6 * DAY, Some((&second, now - 5 * DAY))),
        (&third, now - 4 * DAY, Some((&third, now - 4 * DAY))),
    ] {
        let request = pb::PutServerKeysRequest { answer: put.clone().into(), fetched_ts };
        keys.put_server_keys(request).await.unwrap();
        let question = pb::GetServerKeysRequest { server_name: "one.example".to_owned() };
        match (keys.get_server_keys(question).await, held) {
            (Ok(got), Some((held, fetched_ts))) => {
                let got = got.into_inner();
                assert_eq!((&*got.answer, got.fetched_ts), (held.as_bytes(), fetched_ts));
            }
            (Err(status), None) => {
                assert_eq!(status.get_details_error_info().unwrap().reason, "KEYS_EXPIRED");
            }
            other => panic!("{other:?}"),
        }
    }
    // A missing time and a time in the future both mean now.
    for fetched_ts in [0, now + DAY] {
        let request = pb::PutServerKeysRequest { answer: first.clone().into(), fetched_ts };
        keys.put_server_keys(request).await.unwrap();
        let question = pb::GetServerKeysRequest { server_name: "one.example".to_owned() };
        let got = keys.get_server_keys(question).await.unwrap().into_inner().fetched_ts;
        assert!((now..now + DAY).contains(&got), "{got}");
    }
}

/// An import with pinned keys reports wrong signatures and appends the events all the same. It names the
/// entries of the key file that it does not use.
#[test]
fn an_import_reports_signatures_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let room = fs::read_to_string(rooms.join("linear-v12/room.ndjson")).unwrap();
    let mut lines: Vec<Value> = room.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let count = lines.len() - 1;
    // Changes the fifth line of the file.
    let of_servers = lines[4]["pdu"]["signatures"].as_object_mut().unwrap();
    let (server, of_server) = of_servers.iter_mut().next().unwrap();
    let server = server.clone();
    let (key_id, signature) = of_server.as_object_mut().unwrap().iter_mut().next().unwrap();
    let key_id = key_id.clone();
    let reversed: String = signature.as_str().unwrap().chars().rev().collect();
    *signature = json!(reversed);
    let event_id = lines[4]["event_id"].as_str().unwrap().to_owned();
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("room.ndjson"), lines.join("\n")).unwrap();
    let keys = fs::read_to_string(rooms.join("server-keys.json")).unwrap();
    let mut keys: Value = serde_json::from_str(&keys).unwrap();
    keys["odd.example"] = json!(1);
    fs::write(path("keys.json"), keys.to_string()).unwrap();
    let (room, keys) = (path("room.ndjson"), path("keys.json"));
    let importing = ["import", "--server-keys", &keys, &room];
    for (flags, taken, code) in [
        (&[][..], format!("{count} events appended, 0 held already, 0 refused"), 0),
        (&["--strict"], format!("0 events appended, {count} held already, 0 refused"), 1),
    ] {
        let output = service.command(&[&importing[..], flags].concat());
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
        assert!(stdout.contains(&taken), "{stdout}");
        assert!(stdout.contains("1 have an invalid signature by --server-keys"), "{stdout}");
        assert!(stderr.contains("not used: keys of odd.example: not a JSON object"), "{stderr}");
        let fault = format!("{room}:5: {event_id}: {server}: the signature by key {key_id}");
        assert!(stderr.contains(&fault), "{fault}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let keys = Clients::connect(&service).await.keys;
    let get = pb::GetServerKeysRequest { server_name: "none.example".to_owned() };
    let get = Row::new(get, Code::NotFound, "KEYS_UNKNOWN");
    assert_failures([get], async |request| keys.clone().get_server_keys(request).await).await;
    let put = pb::PutServerKeysRequest { answer: "{}".into(), fetched_ts: 0 };
    let put = Row::new(put, Code::InvalidArgument, "KEYS_INVALID");
    assert_failures([put], async |request| keys.clone().put_server_keys(request).await).await;
}
