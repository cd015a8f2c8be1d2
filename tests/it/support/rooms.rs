//! Rooms recorded from a real homeserver: those in this repository, and a larger set if it exists next to
//! the checkout.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use backscroll::room_format::{Header, Line, Reader};
use serde::Deserialize;
use serde_json::Value;

/// A recorded room.
pub(crate) struct RecordedRoom {
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) lines: Vec<Line>,
    pub(crate) requests: Vec<Request>,
    /// The event ids with the hash of the state after each event.
    pub(crate) states: Vec<(String, String)>,
}

/// A federation request and the expected response.
#[derive(Clone, Deserialize)]
pub(crate) struct Request {
    pub(crate) origin: String,
    pub(crate) destination: String,
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) content: Option<Value>,
    /// What the homeserver answered.
    pub(crate) synapse: Recorded,
    pub(crate) expected: Expected,
    pub(crate) differs: Vec<String>,
}

/// The answer of the homeserver: the ids of its events, each with the hash of its form.
#[derive(Clone, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) status: u16,
    pub(crate) errcode: Option<String>,
    #[serde(default)]
    pub(crate) events: Vec<(String, String)>,
}

/// An expected response.
#[derive(Clone, Deserialize)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    pub(crate) errcode: Option<String>,
    #[serde(default)]
    pub(crate) events: Vec<(String, String, Option<String>)>,
}

/// The folder with the recorded rooms, and whether it is the larger set.
pub(crate) fn folder() -> (PathBuf, bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = root.join("../shared/rooms");
    if whole.is_dir() { (whole, true) } else { (root.join("tests/rooms"), false) }
}

/// All available rooms. Prints a line if only those of this repository are.
pub(crate) fn all() -> Vec<RecordedRoom> {
    let (folder, whole) = folder();
    let rooms = read(&folder);
    if !whole {
        println!("../shared/rooms is absent: only the {} bundled rooms are used", rooms.len());
    }
    rooms
}

/// The keys of the servers in the rooms.
pub(crate) struct Keys {
    /// Server name to its `/_matrix/key/v2/server` answer.
    pub(crate) server: String,
    /// Server name to its key id and seed.
    pub(crate) signing: String,
}

/// Reads the keys of the servers.
pub(crate) fn keys() -> Keys {
    let read = |name: &str| fs::read_to_string(folder().0.join(name)).unwrap();
    Keys { server: read("server-keys.json"), signing: read("signing-keys.json") }
}

/// The rooms in this repository.
pub(crate) fn bundled() -> Vec<RecordedRoom> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms"))
}

fn read(folder: &Path) -> Vec<RecordedRoom> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    names.retain(|it| it.join("room.ndjson").is_file());
    names.sort();
    names.iter().map(|it| RecordedRoom::read(it)).collect()
}

impl RecordedRoom {
    fn read(path: &Path) -> Self {
        let file = BufReader::new(File::open(path.join("room.ndjson")).unwrap());
        let (header, lines) = Reader::open(file).unwrap();
        let ndjson = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        let state = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |member: &str| line[member].as_str().unwrap().to_owned();
            (text("event_id"), text("state_after_sha256"))
        };
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            header,
            lines: lines.collect::<Result<_, _>>().unwrap(),
            requests: ndjson("requests.ndjson")
                .lines()
                .map(|it| serde_json::from_str(it).unwrap())
                .collect(),
            states: ndjson("state.ndjson").lines().map(state).collect(),
        }
    }
}
