//! A disk that fails or does not respond: the service stops with exit code 1, and it has acknowledged
//! only events that are on disk.

use std::{fs, path::Path, time::Duration};

use backscroll::{pdu::RoomVersion, proto::v1::append_events_response::Outcome};
use backscroll_testkit::{Room, process::Ended};
use tokio::time::timeout;

use super::{FLAGS, record::library};
use crate::support::{
    clients::{Clients, request},
    engine,
    process::Process,
};

const USER: &str = "@alice:one.example";
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a service whose file operations fail once the file `when` exists.
fn start(fail: &Path, data_dir: &Path, call: &str, how: &str, when: &Path) -> Process {
    let flags = [&FLAGS[..], &["--flush-timeout-seconds", "2"]].concat();
    Process::start_with(data_dir, &flags, |command| {
        command.env("FAIL_DIR", data_dir).env("FAIL_CALL", call).env("FAIL_HOW", how);
        command.env("FAIL_WHEN", when).env("LD_PRELOAD", fail);
    })
}

/// Appends an event, makes file operations fail, then appends other events one by one. Returns the number
/// of these that were acknowledged, the exit code and the log.
async fn append(fail: &Path, dir: &Path, call: &str, how: &str) -> (usize, Option<i32>, String) {
    let when = dir.join("when");
    let service = start(fail, &dir.join("data"), call, how, &when);
    let mut clients = Clients::connect(&service).await;
    let (room, create) = Room::new(RoomVersion::V10, USER);
    let first = clients.append(vec![request(&room, &create.pdu)]).await.unwrap();
    assert!(matches!(first[0].outcome, Some(Outcome::Appended(_))));
    fs::write(&when, "").unwrap();
    let (mut last, mut acknowledged) = (create, 0);
    let appending = async {
        loop {
            let next = room.message(USER, "hello").after([&last]).finish();
            if clients.append(vec![request(&room, &next.pdu)]).await.is_err() {
                return;
            }
            acknowledged += 1;
            last = next;
        }
    };
    timeout(PATIENCE, appending)
        .await
        .unwrap_or_else(|_| panic!("{call} {how}: the service does not end"));
    let ended = tokio::task::spawn_blocking(move || service.wait());
    let Ended { code, log } = timeout(PATIENCE, ended).await.unwrap().unwrap();
    (acknowledged, code, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_stops_the_service_and_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fail) = library("fail", dir.path()) else {
        println!("skipped: no C compiler");
        return;
    };
    // fjall appends to its journal, and syncs it with one call.
    let calls: &[&str] = if engine::is_sled() {
        &["fsync", "fdatasync", "pwrite", "sync_file_range"]
    } else {
        &["fsync"]
    };
    for call in calls {
        let dir = tempfile::tempdir().unwrap();
        let (acknowledged, code, log) = append(&fail, dir.path(), call, "EIO").await;
        assert_eq!((acknowledged, code), (0, Some(1)), "{call}: {log}");
        assert!(log.contains("a write to the store failed"), "{call}: {log}");
        // The events acknowledged before are stored.
        let service = Process::start(&dir.path().join("data"), &FLAGS);
        let mut clients = Clients::connect(&service).await;
        let (_, events) = clients.room("!room:one.example").await.unwrap();
        assert!(!events.is_empty(), "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_does_not_return_ends_the_service_within_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fail) = library("fail", dir.path()) else {
        println!("skipped: no C compiler");
        return;
    };
    let calls: &[&str] = if engine::is_sled() { &["fdatasync", "pwrite"] } else { &["fsync"] };
    for call in calls {
        let dir = tempfile::tempdir().unwrap();
        let (acknowledged, code, log) = append(&fail, dir.path(), call, "hang").await;
        assert_eq!((acknowledged, code), (0, Some(1)), "{call}: {log}");
        assert!(log.contains("did not return in time"), "{call}: {log}");
    }
}

#[test]
fn a_failing_sync_at_the_start_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let Some(fail) = library("fail", dir.path()) else {
        println!("skipped: no C compiler");
        return;
    };
    let data_dir = dir.path().join("data");
    let mut command = crate::support::process::backscroll(["serve", "--listen", "127.0.0.1:0"]);
    command.args(crate::support::process::store(&data_dir));
    command.env("FAIL_DIR", &data_dir).env("FAIL_CALL", "fsync").env("FAIL_HOW", "EIO");
    command.env("FAIL_WHEN", dir.path()).env("LD_PRELOAD", &fail);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Input/output error"), "{said}");
}
