//! A store that is looked through while it serves: events come in, history is purged, rooms are
//! deleted meanwhile, and none of that looks like a fault.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::support::{
    process::{self, Process},
    rooms::{self, RecordedRoom},
};

/// How often the store is looked through.
const WALKS: usize = 12;

fn file(room: &RecordedRoom) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    tests.join(&room.name).join("room.ndjson").to_str().unwrap().to_owned()
}

#[test]
fn what_changes_meanwhile_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let rooms = rooms::bundled();
    let service = Process::start(dir.path(), &["--reserved-mib", "0"]);
    let (first, others) = rooms.split_first().unwrap();
    process::stdout(service.command(&["import", &file(first)]));
    let done = AtomicBool::new(false);
    let change = || {
        for room in others.iter().cycle() {
            let (room_id, lines) = (room.header.room_id.as_str(), &room.lines);
            process::stdout(service.command(&["import", &file(room)]));
            // An outlier cannot be purged to: then nothing is.
            drop(service.command(&["purge", room_id, &lines[lines.len() / 2].event_id]));
            process::stdout(service.command(&["delete-room", room_id, "--may-return"]));
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(change);
        let walks =
            (0..WALKS).map(|_| service.command(&["verify", "--online", "--busy-percent", "100"]));
        let walks: Vec<_> = walks.collect();
        done.store(true, Ordering::Relaxed);
        for walk in walks {
            let said = process::stdout(walk);
            assert!(said.ends_with(" 0 faults\n"), "{said}");
        }
    });
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let data_dir = dir.path().to_str().unwrap();
    let verified = process::stdout(process::run(["verify", "--data-dir", data_dir]));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
}
