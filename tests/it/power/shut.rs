//! Stores that sled cannot open, and file systems that are not durable enough: the error texts of the
//! commands, and the files that they leave.

use std::{fs, path::Path, process::Output};

use backscroll::store::{Options, Store};
use backscroll_testkit::process::Ended;

use super::{FLAGS, files};
use crate::support::{
    engine,
    process::{self, Process},
    rooms,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Fills a store with recorded rooms, and kills the service.
fn killed_store(data_dir: &Path) {
    let service = Process::start(data_dir, &FLAGS);
    for room in rooms::bundled().into_iter().take(3) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("tests/rooms").join(&room.name).join("room.ndjson");
        process::stdout(service.command(&["import", text(&path)]));
    }
    service.kill();
}

/// Checks that the exit code is 1 and that no panic is printed; returns standard error.
fn said(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked at"), "{said}");
    said
}

#[test]
fn a_store_that_does_not_open_stays_unchanged_and_the_error_names_the_remedy() {
    if !engine::is_sled() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    killed_store(&data_dir);
    // The head of the first segment contains sled's own records.
    let db = data_dir.join("graph/db");
    let mut bytes = fs::read(&db).unwrap();
    bytes[20..4_000].fill(0xa5);
    fs::write(&db, &bytes).unwrap();
    let before = files(&data_dir.join("graph"));
    for command in ["verify", "serve"] {
        let args = [command, "--data-dir", text(&data_dir)];
        let said = said(process::run(args));
        assert!(said.contains("backscroll restore") || said.contains("restore a backup"), "{said}");
        let after = files(&data_dir.join("graph"));
        assert!(after == before, "{command} changed {:?}", data_dir.join("graph"));
    }
}

#[test]
fn a_damaged_snapshot_is_set_aside_by_every_command() {
    if !engine::is_sled() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    killed_store(&data_dir);
    drop(Store::open(&Options::small(&data_dir)).unwrap());
    drop(Store::open(&Options::small(&data_dir)).unwrap());
    for length in [0, 7, 100] {
        let graph = fs::read_dir(data_dir.join("graph")).unwrap().map(|it| it.unwrap().path());
        let snapshot = graph
            .into_iter()
            .find(|it| it.file_name().unwrap().to_str().unwrap().starts_with("snap."))
            .unwrap();
        fs::File::options().write(true).open(&snapshot).unwrap().set_len(length).unwrap();
        let output = process::run(["verify", "--data-dir", text(&data_dir)]);
        let log = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(log.contains("is set aside"), "{log}");
        assert!(process::stdout(output).ends_with(" 0 faults\n"));
    }
}

#[test]
fn a_file_system_that_is_not_durable_is_reported_or_refused() {
    if !engine::is_sled() {
        return;
    }
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() {
        println!("skipped: no file system in memory");
        return;
    }
    let dir = tempfile::tempdir_in(shared).unwrap();
    let data_dir = dir.path().join("data");
    let service = Process::start(&data_dir, &FLAGS);
    let stats = process::stdout(service.command(&["stats"]));
    assert!(stats.contains("each acknowledgement, by a sync of this program"), "{stats}");
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("a power cut may leave a store that does not open"), "{log}");
    let args = ["serve", "--listen", "127.0.0.1:0", "--require-durable", "--data-dir"];
    let said = said(process::run(args.into_iter().chain([text(&data_dir)])));
    assert!(said.contains("put the data directory on a local ext4"), "{said}");
}
