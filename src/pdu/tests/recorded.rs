//! Every event of the rooms recorded from a real homeserver: what we compute is what it computed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::pdu::{
    KeyRing, Pdu, RoomVersion, SignatureCheck, redact_stored, required_servers, verify_signatures,
};

/// The whole set beside the checkout if it is there, else the few rooms of the repository.
fn rooms() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [root.join("../shared/rooms"), root.join("tests/rooms")].into_iter().find(|it| it.is_dir())
}

#[derive(Deserialize)]
struct Header {
    room: Room,
}

#[derive(Deserialize)]
struct Room {
    room_id: String,
    room_version: String,
}

#[derive(Deserialize)]
struct Line {
    event_id: String,
    pdu: Box<RawValue>,
}

#[derive(Deserialize)]
struct Request {
    expected: Answer,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    events: Vec<(String, String, String)>,
}

/// What the homeserver answered: by event and form, the hash of the canonical JSON.
fn answers(room: &Path) -> BTreeMap<(String, String), String> {
    let text = fs::read_to_string(room.join("requests.ndjson")).unwrap_or_default();
    text.lines()
        .flat_map(|line| serde_json::from_str::<Request>(line).unwrap().expected.events)
        .map(|(event_id, form, hash)| ((event_id, form), hash))
        .collect()
}

#[derive(Default, Debug)]
struct Count {
    rooms: usize,
    events: usize,
    full: usize,
    redacted: usize,
    hash_differs: usize,
}

#[test]
fn every_recorded_event_is_read_as_the_homeserver_read_it() {
    let Some(rooms) = rooms() else {
        println!("no recorded rooms here: nothing is checked");
        return;
    };
    let keys = KeyRing::parse(&fs::read(rooms.join("server-keys.json")).unwrap()).unwrap();
    let mut count = Count::default();
    let folders: BTreeSet<PathBuf> =
        fs::read_dir(&rooms).unwrap().map(|entry| entry.unwrap().path()).collect();
    for folder in folders.into_iter().filter(|it| it.is_dir()) {
        check_room(&folder, &keys, &mut count);
    }
    println!("{}: {count:?}", rooms.display());
    assert!(count.rooms > 0 && count.events > 0 && count.full > 0 && count.redacted > 0);
}

fn check_room(folder: &Path, keys: &KeyRing, count: &mut Count) {
    let text = fs::read_to_string(folder.join("room.ndjson")).unwrap();
    let mut lines = text.lines();
    let Header { room } = serde_json::from_str(lines.next().unwrap()).unwrap();
    let version = RoomVersion::parse(&room.room_version).unwrap();
    let answers = answers(folder);
    count.rooms += 1;
    for line in lines {
        let line: Line = serde_json::from_str(line).unwrap();
        let place = format!("{} {}", folder.display(), line.event_id);
        let bytes = line.pdu.get().as_bytes();
        let pdu = Pdu::parse(bytes, version).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(pdu.event_id(), &line.event_id.as_str(), "{place}");
        assert_eq!(pdu.room_id(), &room.room_id.as_str(), "{place}");
        assert_eq!(pdu.bytes_as_received(), bytes, "{place}");
        check_signatures(&pdu, keys, &place);
        let redacted = pdu.redacted().unwrap();
        assert_eq!(redacted.event_id(), pdu.event_id(), "{place}");
        assert_eq!(redacted.canonical_json(), redacted.redacted().unwrap().canonical_json());
        check_signatures(&redacted, keys, &place);
        if !pdu.content_hash_matches() {
            count.hash_differs += 1;
            assert_eq!(pdu.canonical_json(), redacted.canonical_json(), "{place}: not redacted");
        }
        let stored = redact_stored(bytes, version).unwrap();
        assert_eq!(stored, redacted.bytes_as_received(), "{place}");
        for (form, form_pdu) in [("full", &pdu), ("redacted", &redacted)] {
            if let Some(hash) = answers.get(&(line.event_id.clone(), form.to_owned())) {
                let ours = sha256(&form_pdu.canonical_json());
                assert_eq!(&ours, hash, "{place} {form}");
                *(if form == "full" { &mut count.full } else { &mut count.redacted }) += 1;
            }
        }
        count.events += 1;
    }
}

fn check_signatures(pdu: &Pdu, keys: &KeyRing, place: &str) {
    let check = verify_signatures(pdu, &|server, key_id| keys.key(server, key_id));
    assert_eq!(check, SignatureCheck::Valid, "{place}");
    let none = verify_signatures(pdu, &|_, _| None);
    assert!(matches!(none, SignatureCheck::Unknown { .. }), "{place}: {none:?}");
    let ruma = ruma::signatures::required_server_signatures_to_verify_event(
        &pdu.json.object,
        &pdu.room_version().rules().signatures,
    );
    let ours: Vec<String> =
        required_servers(pdu).unwrap().iter().map(ToString::to_string).collect();
    let ruma: Vec<String> = ruma.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(ours, ruma, "{place}");
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
