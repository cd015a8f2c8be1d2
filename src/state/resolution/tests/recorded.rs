//! Reads the recorded rooms: the events of a real homeserver, and its state after each event.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ruma::{OwnedEventId, RoomVersionId, room_version_rules::RoomVersionRules};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::state::resolution::{StateEvent, StateMap, timestamp};

/// A recorded room.
pub(super) struct Room {
    pub(super) name: String,
    pub(super) rules: RoomVersionRules,
    /// The events, in the order in which the homeserver placed them.
    pub(super) placed: Vec<Placed>,
    pub(super) events: BTreeMap<OwnedEventId, Arc<StateEvent>>,
}

/// An event of a recorded room.
pub(super) struct Placed {
    pub(super) event: Arc<StateEvent>,
    pub(super) outlier: bool,
    /// The ids of the state after the event, where it does not follow from the graph.
    pub(super) state_after: Option<Vec<OwnedEventId>>,
    /// The hash of the homeserver's state after the event.
    pub(super) expected: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    event_id: OwnedEventId,
    pdu: Pdu,
    #[serde(default)]
    outlier: bool,
    #[serde(default)]
    rejected: bool,
    state_after: Option<Vec<OwnedEventId>>,
}

#[derive(Deserialize)]
struct Pdu {
    sender: String,
    #[serde(rename = "type")]
    event_type: String,
    state_key: Option<String>,
    origin_server_ts: i64,
    depth: i64,
    content: Box<RawValue>,
    prev_events: Vec<Value>,
    auth_events: Vec<Value>,
    redacts: Option<String>,
}

/// All recorded rooms; none if they are not in the working copy.
pub(super) fn rooms() -> Vec<Room> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [here.join("../shared/rooms"), here.join("tests/rooms")];
    let Some(place) = places.iter().find(|place| place.is_dir()) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("room.ndjson").is_file() && path.join("state.ndjson").is_file())
        .collect();
    folders.sort();
    folders.iter().map(|folder| read(folder)).collect()
}

fn read(folder: &Path) -> Room {
    let expected = expected_hashes(folder);
    let text = fs::read_to_string(folder.join("room.ndjson")).unwrap();
    let mut lines = text.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let room_id = header["room"]["room_id"].as_str().unwrap();
    let version: RoomVersionId =
        header["room"]["room_version"].as_str().unwrap().try_into().unwrap();
    let placed: Vec<Placed> =
        lines.map(|line| placed(serde_json::from_str(line).unwrap(), room_id, &expected)).collect();
    Room {
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        rules: version.rules().unwrap(),
        events: placed.iter().map(|it| (it.event.event_id.clone(), it.event.clone())).collect(),
        placed,
    }
}

fn expected_hashes(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder.join("state.ndjson")).unwrap();
    let hash = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| line[name].as_str().map(str::to_owned);
        Some((field("event_id")?, field("state_after_sha256")?))
    };
    text.lines().filter_map(hash).collect()
}

fn placed(line: Line, room_id: &str, expected: &BTreeMap<String, String>) -> Placed {
    let pdu = line.pdu;
    Placed {
        outlier: line.outlier,
        state_after: line.state_after,
        expected: expected.get(line.event_id.as_str()).cloned(),
        event: Arc::new(StateEvent {
            event_id: line.event_id,
            room_id: room_id.try_into().unwrap(),
            sender: pdu.sender.try_into().unwrap(),
            event_type: pdu.event_type.as_str().into(),
            state_key: pdu.state_key,
            origin_server_ts: timestamp(pdu.origin_server_ts),
            depth: pdu.depth,
            content: pdu.content,
            prev_events: ids(&pdu.prev_events),
            auth_events: ids(&pdu.auth_events),
            redacts: pdu.redacts.and_then(|id| id.try_into().ok()),
            rejected: line.rejected,
        }),
    }
}

/// Room versions 1 and 2 name an event by a pair of id and hash, later ones by the id.
fn ids(references: &[Value]) -> Vec<OwnedEventId> {
    let id = |it: &Value| it.as_str().or(it[0].as_str()).unwrap().try_into().unwrap();
    references.iter().map(id).collect()
}

/// The hash of a state, as in the records.
pub(super) fn hash(state: &StateMap) -> String {
    let mut hasher = Sha256::new();
    for ((event_type, state_key), id) in state {
        hasher.update(format!("{event_type}\0{state_key}\0{id}\n"));
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
