//! `backscroll verify` while the service serves: events are appended, history is purged and rooms are
//! deleted, and none of that is a fault. Also `backscroll verify --repair`.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use backscroll::{
    context::Context,
    store::{Decision, Edit, EventNum, Options, Store, StoreError, View as _},
};
use backscroll_testkit::process::Ended;

use crate::support::{
    engine, load,
    process::{self, Process},
    rooms::{self, RecordedRoom},
};

/// How often the store is verified.
const WALKS: usize = 12;

fn file(room: &RecordedRoom) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    tests.join(&room.name).join("room.ndjson").to_str().unwrap().to_owned()
}

#[test]
fn changes_during_verify_are_not_faults() {
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
            // Purging up to an outlier fails and removes nothing.
            drop(service.command(&["purge", room_id, &lines[lines.len() / 2].event_id]));
            process::stdout(service.command(&["delete-room", room_id, "--may-return"]));
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(change);
        let walks = (0..WALKS)
            .map(|_| service.command(&["verify", "--online", "--max-cpu-percent", "100"]));
        let walks: Vec<_> = walks.collect();
        done.store(true, Ordering::Relaxed);
        for walk in walks {
            let said = process::stdout(walk);
            assert!(said.ends_with(" 0 faults\n"), "{said}");
        }
    });
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let data_dir = dir.path().to_str().unwrap();
    let verified = process::stdout(process::run(["verify", "--data-dir", data_dir]));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
}

/// Changes a room in a store that no process has open.
fn change(data_dir: &str, room: &RecordedRoom, change: impl FnOnce(&mut Edit<'_>)) {
    let store = Store::open(&Options::small(Path::new(data_dir))).unwrap();
    let mut change = Some(change);
    let decided = store.decide(&room.header.room_id, None, |edit| {
        change.take().unwrap()(edit);
        Ok::<_, StoreError>(Decision::Commit(()))
    });
    decided.unwrap().unwrap();
    store.flush().unwrap();
}

fn number(edit: &Edit<'_>, event_id: &str) -> EventNum {
    edit.event_num(edit.room_num(), event_id).unwrap().unwrap()
}

#[test]
fn computed_records_are_repaired_and_lost_records_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let rooms = rooms::bundled();
    let [first, second, ..] = rooms.as_slice() else { panic!("too few rooms") };
    let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
    [first, second].iter().for_each(|it| load::append_room(&cx, it));
    drop(cx);
    let verify = |flags: &[&str]| {
        let args = ["verify", "--data-dir", data_dir].into_iter().chain(flags.iter().copied());
        let output = process::run(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };

    for room in [first, second] {
        change(data_dir, room, |edit| {
            edit.room.rejected += 1;
            let event = number(edit, &room.lines[5].event_id);
            let mut node = edit.node(event).unwrap();
            node.state_after = None;
            edit.put_node(event, node).unwrap();
        });
    }
    assert_eq!(verify(&[]).0, Some(1));
    let (code, said) = verify(&["--repair"]);
    assert!(said.contains("its record counts 1: repaired, counted again\n"), "{said}");
    assert!(said.contains("is not stored: repaired, derived again from the graph\n"), "{said}");
    assert!(said.ends_with("\n6 faults repaired, 0 left\n"), "{said}");
    assert_eq!((code, verify(&[]).0), (Some(0), Some(0)), "{said}");

    // A room with a damaged body is left unchanged; other rooms are repaired.
    for room in [first, second] {
        change(data_dir, room, |edit| edit.room.outliers += 1);
    }
    change(data_dir, first, |edit| {
        let event_id = &first.lines[7].event_id;
        edit.put_body(number(edit, event_id), event_id, b"{}");
    });
    let (code, said) = verify(&["--repair"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its record counts 1: repaired, counted again\n"), "{said}");
    let left = said.lines().filter(|it| it.ends_with(": restore from a backup")).count();
    assert!(left >= 2 && said.contains("the body is not a valid event"), "{said}");
    assert!(said.ends_with(&format!("\n1 faults repaired, {left} left\n")), "{said}");
    assert_eq!(verify(&[]).0, Some(1));

    // The help text says how.
    let service = Process::start(dir.path(), &["--reserved-mib", "0"]);
    let room_id = first.header.room_id.as_str();
    process::stdout(service.command(&["delete-room", room_id, "--may-return"]));
    process::stdout(service.command(&["import", &file(first)]));
    assert_eq!(service.stop().code, Some(0));
    assert_eq!(verify(&[]).0, Some(0));
}

#[test]
fn a_store_that_a_process_has_open_is_not_repaired() {
    for flags in [["--online", "--max-cpu-percent=9"], ["--backup", "backup"]] {
        let output = process::run(["verify", "--data-dir", ".", "--repair"].iter().chain(&flags));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("'--repair' cannot be used with"), "{said}");
    }
    let output = process::run(["verify", "--repair"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("--data-dir <DIR>"));
    // Several processes may have a store in a database open.
    if !engine::is_in_files() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(dir.path(), &["--reserved-mib", "0"]);
    let output = process::run(["verify", "--repair", "--data-dir", dir.path().to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("in use by another process"),
        "{said}"
    );
    drop(service);
}
