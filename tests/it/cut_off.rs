//! A backup, a restore, a repair and the removal of redacted content, each killed several times and
//! started again: the result is the same as without kills.
//!
//! A kill is due when the command has written a certain part of what it writes when it is not
//! killed, so the speed of the machine does not matter.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use backscroll::{
    room_format::{Header, Line, Reader, write_header, write_line},
    store::{Decision, Options, Store, StoreError, View as _},
    verify,
};
use backscroll_testkit::{Room, folder, within};
use serde_json::{Value, json, value::RawValue};

use crate::support::{
    engine, faults,
    process::{self, Process},
};

/// Events of each room that the tests make.
const EVENTS: u32 = 1_500;
const RECORDED: [&str; 3] = ["redactions-v11", "forks-v2", "visibility-v10-seen-by-hs2"];
/// The parts of its work after which a command is killed, in percent.
const KILLS: [u64; 4] = [15, 35, 60, 85];
const PATIENCE: Duration = Duration::from_secs(300);

/// Writes a room with many events to a file.
fn write_room(dir: &Path, name: &str) -> PathBuf {
    let user = "@alice:one.example";
    let (room, create) = Room::named("10", user, name);
    let path = dir.join(format!("{name}.ndjson"));
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let header = Header {
        room_id: room.room_id.clone(),
        room_version: "10".to_owned(),
        erased_users: vec![format!("@{name}:one.example")],
    };
    write_header(&mut out, &header).unwrap();
    let mut last = create;
    for number in 0..EVENTS {
        let line = Line {
            kept: None,
            event_id: last.event_id.clone(),
            pdu: RawValue::from_string(last.pdu.clone()).unwrap(),
            outlier: false,
            rejected: false,
            soft_failed: false,
            arrival: None,
            state_after: Vec::new(),
        };
        write_line(&mut out, &line).unwrap();
        let next = match number % 20 {
            0 => room.state(user, "m.room.topic", "", json!({"topic": format!("{number}")})),
            1 => room.member(user, &format!("@user{number}:two.example"), "join"),
            _ => room.message(user, &format!("{number} {}", name.repeat(40))),
        };
        last = next.after([&last]).finish();
    }
    path
}

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms").join(name).join("room.ndjson")
}

/// A command in a process of its own.
struct Command {
    child: Child,
}

impl Command {
    fn start(args: &[&str]) -> Self {
        let mut command = process::backscroll(args);
        // What a failing command says is worth reading.
        Self { child: command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap() }
    }

    /// The bytes that the process has passed to write calls; `None` when it has ended.
    fn written(&mut self) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        if self.child.try_wait().unwrap().is_some() {
            return None;
        }
        let line = io.lines().find_map(|it| it.strip_prefix("wchar: "))?;
        Some(line.parse().unwrap())
    }

    /// Waits until the command has ended; returns the number of bytes that it has written, or `None` if it
    /// failed.
    fn measure(mut self) -> Option<u64> {
        let mut most = 0;
        within(PATIENCE, "the command ends", || match self.written() {
            Some(written) => {
                most = written;
                false
            }
            None => true,
        });
        self.child.wait().unwrap().success().then_some(most)
    }

    /// Kills the command when it has written a number of bytes, unless it has ended before.
    fn kill_after(mut self, bytes: u64) {
        within(PATIENCE, "the command writes or ends", || {
            self.written().is_none_or(|written| written >= bytes)
        });
        // It fails for a process that has ended.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

impl Command {
    /// Waits until a service has nothing to write, and kills it. Returns the number of bytes that it
    /// has written.
    fn measure_until_idle(mut self) -> u64 {
        /// Polls with hardly any writes after which the service has nothing to do.
        const IDLE: u32 = 200;
        let (mut most, mut unchanged) = (0, 0);
        within(PATIENCE, "the service is idle", || {
            let written = self.written().expect("the service runs");
            if written > most + 512 {
                (most, unchanged) = (written, 0);
            } else {
                unchanged += 1;
            }
            written > 0 && unchanged > IDLE
        });
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        most
    }
}

/// What a backup contains.
#[derive(Debug, PartialEq)]
struct Manifest {
    /// The rooms by id, without the names of their files.
    rooms: BTreeMap<String, Value>,
    /// Deleted rooms and erased users.
    tombstones: Value,
}

impl Manifest {
    fn read(path: &Path) -> Self {
        let mut manifest = Self { rooms: BTreeMap::new(), tombstones: Value::Null };
        for line in fs::read_to_string(path).unwrap().lines() {
            let mut entry: Value = serde_json::from_str(line).unwrap();
            if let Some(room) = entry.get_mut("room") {
                room["file"].take();
                if let Some(purged) = room.get_mut("purged") {
                    purged["file"].take();
                }
                let room_id = room["room_id"].as_str().unwrap().to_owned();
                manifest.rooms.insert(room_id, room.take());
            } else if let Some(it) = entry.get_mut("withheld") {
                manifest.tombstones = it.take();
            }
        }
        manifest
    }
}

/// The number of events in a store that no process has open.
fn stored_events(data_dir: &Path) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    folder::copy(data_dir, dir.path()).unwrap();
    verify::extent(&Store::open(&Options::small(dir.path())).unwrap()).unwrap()
}

/// The number of faults in a store that no process has open.
fn faults_of(data_dir: &Path) -> usize {
    let dir = tempfile::tempdir().unwrap();
    folder::copy(data_dir, dir.path()).unwrap();
    faults::of(&Store::open(&Options::small(dir.path())).unwrap()).len()
}

/// Every room as text, with its current state.
fn all(service: &Process, room_ids: &[String]) -> Vec<String> {
    let output = |args: &[&str]| process::stdout(service.command(args));
    let of_room = |it: &String| [output(&["export", it]), output(&["state", it])];
    room_ids.iter().flat_map(of_room).collect()
}

/// Purges a part of a recorded room.
fn purge(service: &Process, room: &Path) {
    let text = fs::read_to_string(room).unwrap();
    let line = |number| serde_json::from_str::<Value>(text.lines().nth(number).unwrap()).unwrap();
    let room_id = line(0)["room"]["room_id"].as_str().unwrap().to_owned();
    let event_id = line(20)["event_id"].as_str().unwrap().to_owned();
    process::stdout(service.command(&["purge", &room_id, &event_id]));
}

#[test]
fn a_backup_and_a_restore_that_were_killed_continue() {
    if !engine::is_in_files() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let service = Process::start(&path("first"), &["--reserved-mib", "0"]);
    let url = service.url();
    let mut files: Vec<PathBuf> =
        ["anna", "berta", "clara"].iter().map(|it| write_room(dir.path(), it)).collect();
    files.extend(RECORDED.iter().map(|it| recorded(it)));
    let files: Vec<&str> = files.iter().map(|it| it.to_str().unwrap()).collect();
    process::stdout(service.command(&[["import"].as_slice(), &files].concat()));
    purge(&service, &recorded("forks-v2"));
    process::stdout(service.command(&["delete-room", "!clara:one.example"]));
    let bytes = Command::start(&["backup", &text("whole"), "--server", &url]).measure().unwrap();
    let whole = Manifest::read(&path("whole/manifest.ndjson"));
    let room_ids: Vec<String> = whole.rooms.keys().cloned().collect();

    let mut interrupted = 0;
    for percent in KILLS {
        let backup = Command::start(&["backup", &text("cut"), "--server", &url]);
        // What an earlier attempt has written is not written again.
        backup.kill_after(bytes * percent / 100 / 2);
        interrupted += u64::from(!path("cut/manifest.ndjson").exists());
    }
    assert!(interrupted > 0, "no kill interrupted the backup");
    if !path("cut/manifest.ndjson").exists() {
        process::stdout(service.command(&["backup", &text("cut")]));
    }
    assert_eq!(Manifest::read(&path("cut/manifest.ndjson")), whole);
    process::stdout(process::run(["verify", "--backup", &text("cut")]));

    let events: u64 = whole.rooms.values().map(|it| it["events"].as_u64().unwrap()).sum();
    let restore =
        |to: &str| Command::start(&["restore", &text("whole"), "--data-dir", &text(to)]).measure();
    // sled's threads may wait for each other for ever; then the watchdog ends the process.
    let bytes = restore("undisturbed").or_else(|| restore("undisturbed again")).unwrap();
    let disturbed = ["restore", &text("cut"), "--data-dir", &text("disturbed")];
    let mut interrupted = 0;
    for percent in KILLS {
        Command::start(&disturbed).kill_after(bytes * percent / 100);
        let files = ["disturbed/graph/db", "disturbed/fjall"];
        let is_begun = files.iter().any(|it| path(it).exists());
        let stored = if is_begun { stored_events(&path("disturbed")) } else { 0 };
        interrupted += u64::from(stored > 0 && stored < events);
        println!("{stored} of {events} events");
    }
    assert!(interrupted > 0, "no kill interrupted the restore");
    process::stdout(process::run(disturbed));
    let restored = ["undisturbed", "disturbed"].map(|name| {
        let verified = process::stdout(process::run(["verify", "--data-dir", &text(name)]));
        assert!(verified.ends_with(" 0 faults\n"), "{verified}");
        let service = Process::start(&path(name), &["--reserved-mib", "0"]);
        let rooms = all(&service, &room_ids);
        // Purged events and deleted rooms do not return.
        process::stdout(service.command(&[["import"].as_slice(), &files].concat()));
        assert!(all(&service, &room_ids) == rooms, "{name}: an import changed the rooms");
        rooms
    });
    assert!(restored[0] == restored[1], "the restored stores differ");
    assert!(restored[0] == all(&service, &room_ids), "the restored store differs from the first");
}

/// Changes the depth of every event of a room, and removes every state.
fn damage(data_dir: &Path, room: &Path) {
    let store = Store::open(&Options::small(data_dir)).unwrap();
    let (header, lines) = Reader::open(BufReader::new(File::open(room).unwrap())).unwrap();
    let event_ids: Vec<String> = lines.map(|it| it.unwrap().event_id).collect();
    let decided = store.decide(&header.room_id, None, |edit| {
        for event_id in &event_ids {
            let event = edit.event_num(edit.room_num(), event_id)?.unwrap();
            let mut node = edit.node(event)?;
            node.depth += 1;
            node.state_after = None;
            edit.put_node(event, node)?;
        }
        edit.room.outliers = 7;
        Ok::<_, StoreError>(Decision::Commit(()))
    });
    decided.unwrap().unwrap();
    store.flush().unwrap();
}

#[test]
fn a_repair_that_was_killed_continues() {
    if !engine::is_in_files() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let room = write_room(dir.path(), "anna");
    let room_ids = ["!anna:one.example".to_owned()];
    let service = Process::start(&data_dir, &["--reserved-mib", "0"]);
    process::stdout(service.command(&["import", room.to_str().unwrap()]));
    let before = all(&service, &room_ids);
    assert_eq!(service.stop().code, Some(0));
    damage(&data_dir, &room);
    let undisturbed = dir.path().join("undisturbed");
    folder::copy(&data_dir, &undisturbed).unwrap();
    let repair = |data_dir: &Path| {
        let data_dir = data_dir.to_str().unwrap();
        Command::start(&["verify", "--repair", "--data-dir", data_dir])
    };
    let bytes = repair(&undisturbed).measure().unwrap();
    let mut left = vec![faults_of(&data_dir)];
    for percent in KILLS {
        repair(&data_dir).kill_after(bytes * percent / 100);
        left.push(faults_of(&data_dir));
    }
    println!("faults left after each kill: {left:?}");
    assert!(left[0] > 1_000, "the damage is noticed");
    assert!(left[1] > 0, "the first kill interrupted the repair");
    let args = ["verify", "--repair", "--data-dir", data_dir.to_str().unwrap()];
    let repaired = process::stdout(process::run(args));
    assert!(repaired.ends_with(" 0 left\n"), "{repaired}");
    let service = Process::start(&data_dir, &["--reserved-mib", "0"]);
    assert!(all(&service, &room_ids) == before, "the repaired room differs");
}

/// Writes a room in which the sender has redacted every second message. Returns the ids of these
/// messages.
fn write_redacted_room(path: &Path) -> Vec<String> {
    let user = "@alice:one.example";
    let (room, create) = Room::new("10", user);
    let join = room.member(user, user, "join").after([&create]).finish();
    let mut events = vec![create, join];
    let mut redacted = Vec::new();
    for number in 0..EVENTS {
        let said = room.message(user, &format!("{number} {}", "said ".repeat(40)));
        let said = said.after(events.last()).finish();
        let redaction = room.redaction(user, &said.event_id).after([&said]).finish();
        events.push(said);
        if number % 2 == 0 {
            redacted.push(redaction.event_id.clone());
            events.push(redaction);
        }
    }
    let mut out = BufWriter::new(File::create(path).unwrap());
    let (room_id, room_version) = (room.room_id, "10".to_owned());
    write_header(&mut out, &Header { room_id, room_version, erased_users: Vec::new() }).unwrap();
    for event in events {
        let line = Line {
            kept: None,
            event_id: event.event_id.clone(),
            pdu: RawValue::from_string(event.pdu).unwrap(),
            outlier: false,
            rejected: false,
            soft_failed: false,
            arrival: None,
            state_after: Vec::new(),
        };
        write_line(&mut out, &line).unwrap();
    }
    redacted
}

/// The texts of a room as it is exported, and how many there are.
fn said(export: &str) -> usize {
    export.lines().filter(|it| it.contains("said said")).count()
}

#[test]
fn a_removal_of_content_that_was_killed_continues() {
    // The moments of the kills are counted in bytes that sled writes when nothing else is to do.
    if !engine::is_sled() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [data_dir, room] = ["data", "room.ndjson"].map(|it| dir.path().join(it));
    let redacted = write_redacted_room(&room).len();
    let flags = |days| ["--reserved-mib", "0", "--redacted-content-days", days];
    let service = Process::start(&data_dir, &flags("never"));
    process::stdout(service.command(&["import", room.to_str().unwrap()]));
    let exported =
        |service: &Process| process::stdout(service.command(&["export", "!room:one.example"]));
    let all_said = said(&exported(&service));
    assert_eq!(all_said, 2 * redacted);
    assert_eq!(service.stop().code, Some(0));
    let serve = |data_dir: &Path, days| {
        let data_dir = data_dir.to_str().unwrap();
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir];
        Command::start(&[&args[..], &flags(days)].concat())
    };
    let left = |data_dir: &Path| {
        let dir = tempfile::tempdir().unwrap();
        folder::copy(data_dir, dir.path()).unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        store.count_content_due(usize::MAX).unwrap().events
    };
    let mut lefts = vec![left(&data_dir)];
    let [opened, whole] = ["never", "0"].map(|days| {
        let copy = tempfile::tempdir().unwrap();
        folder::copy(&data_dir, copy.path()).unwrap();
        serve(copy.path(), days).measure_until_idle()
    });
    assert!(whole > opened, "{whole} bytes are written with a removal, {opened} without");
    for percent in KILLS {
        serve(&data_dir, "0").kill_after(opened + (whole - opened) * percent / 100);
        lefts.push(left(&data_dir));
        if lefts.last() == Some(&0) {
            break;
        }
    }
    println!("content left after each kill: {lefts:?}");
    let was_interrupted = |it: &[u64]| 0 < it[1] && it[1] < it[0];
    assert!(lefts.windows(2).any(was_interrupted), "no kill interrupted the removal");
    let service = Process::start(&data_dir, &flags("0"));
    within(PATIENCE, "all content is removed", || said(&exported(&service)) == redacted);
    assert_eq!(service.stop().code, Some(0));
    let args = ["verify", "--redacted-content-days", "0", "--data-dir", data_dir.to_str().unwrap()];
    let verified = process::stdout(process::run(args));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
    assert_eq!(left(&data_dir), 0);
    let copy = dir.path().join("copy");
    let [data_dir, into] = [&data_dir, &copy].map(|it| it.to_str().unwrap());
    process::stdout(process::run(["compact", "--data-dir", data_dir, "--into", into]));
    let verified = process::stdout(process::run(["verify", "--data-dir", into]));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
}
