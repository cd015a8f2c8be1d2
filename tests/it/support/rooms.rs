//! Rooms recorded from a real homeserver: those that come with the project, and the whole set
//! where it lies beside the checkout.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use backscroll::room_format::{Header, Line, Reader};
use serde::Deserialize;
use serde_json::Value;

/// A recorded room.
pub struct RecordedRoom {
    pub name: String,
    pub header: Header,
    pub lines: Vec<Line>,
    pub requests: Vec<Request>,
    /// Event id and hash of the state after it.
    pub states: Vec<(String, String)>,
}

/// A federation request and the answer we must give.
#[derive(Clone, Deserialize)]
pub struct Request {
    pub origin: String,
    pub destination: String,
    pub method: String,
    pub uri: String,
    pub content: Option<Value>,
    pub expected: Expected,
    pub differs: Vec<String>,
}

/// The answer.
#[derive(Clone, Deserialize)]
pub struct Expected {
    pub status: u16,
    pub errcode: Option<String>,
    #[serde(default)]
    pub events: Vec<(String, String, Option<String>)>,
}

/// The folder with all recorded rooms, and whether it is the whole set.
pub fn folder() -> (PathBuf, bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = root.join("../shared/rooms");
    if whole.is_dir() { (whole, true) } else { (root.join("tests/rooms"), false) }
}

/// All rooms at hand. Says so when only those of the project are.
pub fn all() -> Vec<RecordedRoom> {
    let (folder, whole) = folder();
    let rooms = read(&folder);
    if !whole {
        println!("../shared/rooms is absent: only the {} bundled rooms are used", rooms.len());
    }
    rooms
}

/// The rooms that come with the project.
pub fn bundled() -> Vec<RecordedRoom> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms"))
}

fn read(folder: &Path) -> Vec<RecordedRoom> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
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
