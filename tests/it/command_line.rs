//! Commands in scripts: a reader may close their output early.

use std::{io, path::Path, process::Output};

use crate::support::{
    process::{self, Process},
    rooms,
};

/// Runs a command whose standard output is closed.
fn unread(args: &[&str]) -> Output {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    process::backscroll(args).stdout(writer).output().unwrap()
}

#[test]
fn a_closed_output_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let service = Process::start(Path::new(&path("data")), &["--reserved-mib", "0"]);
    let rooms = rooms::bundled();
    let room = rooms.iter().find(|it| it.name == "visibility-v1").unwrap();
    let (room_id, event_id) = (room.header.room_id.as_str(), room.lines[20].event_id.as_str());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms/visibility-v1/room.ndjson");
    let (backup, restored) = (path("backup"), path("restored"));
    let asking: [&[&str]; 9] = [
        &["import", file.to_str().unwrap()],
        &["export", room_id],
        &["state", room_id],
        &["graph", room_id],
        &["explain", room_id, event_id, "hs2.example:9102"],
        &["stats"],
        &["health"],
        &["backup", &backup],
        &["purge", room_id, event_id],
    ];
    let url = service.url();
    let asking = asking.map(|args| [args, &["--server", &url]].concat());
    let offline: [&[&str]; 4] = [
        &["verify", "--backup", &backup],
        &["restore", &backup, "--data-dir", &restored],
        &["verify", "--data-dir", &restored],
        &["verify", "--repair", "--data-dir", &restored],
    ];
    for args in asking.iter().map(Vec::as_slice).chain(offline) {
        let Output { status, stderr, .. } = unread(args);
        let said: Vec<_> = stderr.split(|it| *it == b'\n').map(String::from_utf8_lossy).collect();
        // Its log is not part of this test.
        let faults = said.iter().filter(|it| it.contains("panic") || it.starts_with("error"));
        assert_eq!(faults.count(), 0, "{args:?}: {said:?}");
        assert_eq!(status.code(), Some(0), "{args:?}: {said:?}");
    }
    // The command has finished its work.
    let held = process::stdout(process::run(["verify", "--data-dir", &restored]));
    let events = room.lines.len();
    assert!(held.ends_with(&format!("{events} events verified, 0 faults\n")), "{held}");
}
