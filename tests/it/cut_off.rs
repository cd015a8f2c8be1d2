//! A backup, a restore and a repair that are killed on their way, again and again, and run once
//! more: what comes of them is what comes of one that nobody disturbed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use backscroll::{
    pdu::RoomVersion,
    room_format::{Header, Line, Reader, write_header, write_line},
    store::{Options, Store, View as _},
    verify,
};
use backscroll_testkit::{Random, Room, folder};
use serde_json::{Value, json, value::RawValue};

use crate::support::{
    faults,
    process::{self, Process},
};

const EVENTS: u32 = 1_500;
const RECORDED: [&str; 3] = ["redactions-v11", "forks-v2", "visibility-v10-seen-by-hs2"];
/// How often each is killed, at most.
const KILLS: u64 = 4;

/// A room that takes a while, as a file.
fn write_room(dir: &Path, name: &str) -> PathBuf {
    let user = "@alice:one.example";
    let (room, create) = Room::named(RoomVersion::V10, user, name);
    let path = dir.join(format!("{name}.ndjson"));
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let (room_id, room_version) = (room.room_id.clone(), "10".to_owned());
    let erased_users = vec![format!("@{name}:one.example")];
    write_header(&mut out, &Header { room_id, room_version, erased_users }).unwrap();
    let mut last = create;
    for number in 0..EVENTS {
        let line = Line {
            event_id: last.event_id.clone(),
            pdu: RawValue::from_string(last.pdu.clone()).unwrap(),
            outlier: false,
            rejected: false,
            soft_failed: false,
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

fn begin(args: &[&str]) -> Child {
    let mut command = process::backscroll(args);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until it is time, or the command has ended, and a little longer; then kills it.
fn kill(mut child: Child, is_time: impl Fn() -> bool, random: &mut Random) {
    while !is_time() && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(random.below(8)));
    drop(child.kill());
    child.wait().unwrap();
}

/// The rooms of a backup by id, without the names of their files; and what stays away.
fn manifest(path: &Path) -> Option<(BTreeMap<String, Value>, Value)> {
    let (mut rooms, mut withheld) = (BTreeMap::new(), Value::Null);
    for line in fs::read_to_string(path).ok()?.lines() {
        // The last line may be half of one.
        let Ok(mut entry) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(room) = entry.get_mut("room") {
            room["file"].take();
            if let Some(purged) = room.get_mut("purged") {
                purged["file"].take();
            }
            rooms.insert(room["room_id"].as_str().unwrap().to_owned(), room.take());
        } else if let Some(it) = entry.get_mut("withheld") {
            withheld = it.take();
        }
    }
    Some((rooms, withheld))
}

/// How many events a store holds that nobody has open.
fn held(data_dir: &Path) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    folder::copy(data_dir, dir.path()).unwrap();
    verify::extent(&Store::open(&Options::small(dir.path())).unwrap()).unwrap()
}

fn all(service: &Process, room_ids: &[String]) -> Vec<String> {
    let said = |args: &[&str]| process::stdout(service.command(args));
    let of_room = |it: &String| [said(&["export", it]), said(&["state", it])];
    room_ids.iter().flat_map(of_room).collect()
}

#[test]
fn killed_on_their_way_a_backup_and_a_restore_come_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut random) = (|name: &str| dir.path().join(name), Random::new(1));
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let service = Process::start(&path("first"), &["--reserved-mib", "0"]);
    let mut files: Vec<PathBuf> =
        ["anna", "berta", "clara"].iter().map(|it| write_room(dir.path(), it)).collect();
    files.extend(RECORDED.iter().map(|it| recorded(it)));
    let files: Vec<&str> = files.iter().map(|it| it.to_str().unwrap()).collect();
    process::stdout(service.command(&[["import"].as_slice(), &files].concat()));
    let purged = fs::read_to_string(recorded("forks-v2")).unwrap();
    let line = |number| serde_json::from_str::<Value>(purged.lines().nth(number).unwrap()).unwrap();
    let (room, event) = (line(0)["room"]["room_id"].clone(), line(20)["event_id"].clone());
    let purge = ["purge", room.as_str().unwrap(), event.as_str().unwrap()];
    process::stdout(service.command(&purge));
    process::stdout(service.command(&["delete-room", "!clara:one.example"]));
    process::stdout(service.command(&["backup", &text("whole")]));
    let whole = manifest(&path("whole/manifest.ndjson")).unwrap();
    let room_ids: Vec<String> = whole.0.keys().cloned().collect();

    // The backup: killed with some of its rooms written.
    let mut halfway = 0;
    for kills in 1..=KILLS {
        let child = begin(&["backup", &text("cut"), "--server", &service.url()]);
        let written = || {
            let partial = manifest(&path("cut/manifest.partial"));
            partial.map_or(0, |(rooms, _)| u64::try_from(rooms.len()).unwrap())
        };
        kill(child, || written() >= kills, &mut random);
        halfway += u64::from(written() > 0 && !path("cut/manifest.ndjson").exists());
    }
    assert!(halfway > 0, "it was always too fast");
    if !path("cut/manifest.ndjson").exists() {
        process::stdout(service.command(&["backup", &text("cut")]));
    }
    assert_eq!(manifest(&path("cut/manifest.ndjson")).unwrap(), whole);
    process::stdout(process::run(["verify", "--backup", &text("cut")]));

    // The restore: killed with some of the events in the store.
    let events: u64 = whole.0.values().map(|it| it["events"].as_u64().unwrap()).sum();
    let begun = Instant::now();
    process::stdout(process::run(["restore", &text("whole"), "--data-dir", &text("undisturbed")]));
    let (takes, mut halfway) = (begun.elapsed(), 0);
    for part in (2..).take(KILLS.try_into().unwrap()) {
        let child = begin(&["restore", &text("cut"), "--data-dir", &text("disturbed")]);
        let begun = Instant::now();
        kill(child, || begun.elapsed() > takes * part / 6, &mut random);
        let is_begun = path("disturbed/graph/db").exists();
        let held = if is_begun { held(&path("disturbed")) } else { 0 };
        halfway += u64::from(held > 0 && held < events);
        println!("{held} of {events} events");
    }
    assert!(halfway > 0, "it was always too fast, or too slow");
    process::stdout(process::run(["restore", &text("cut"), "--data-dir", &text("disturbed")]));
    let restored = ["undisturbed", "disturbed"].map(|name| {
        let verified = process::stdout(process::run(["verify", "--data-dir", &text(name)]));
        assert!(verified.ends_with(" 0 faults\n"), "{verified}");
        let service = Process::start(&path(name), &["--reserved-mib", "0"]);
        let said = all(&service, &room_ids);
        // Neither an event that was purged nor a room that was deleted comes back.
        process::stdout(service.command(&[["import"].as_slice(), &files].concat()));
        assert!(all(&service, &room_ids) == said, "{name}: something came back");
        said
    });
    assert!(restored[0] == restored[1], "the restored stores are not the same");
    assert!(restored[0] == all(&service, &room_ids), "they are not what was backed up");
}

/// Every event of a room at another depth, and without a state.
fn damage(data_dir: &Path, room: &Path) {
    let store = Store::open(&Options::small(data_dir)).unwrap();
    let (header, lines) = Reader::open(BufReader::new(File::open(room).unwrap())).unwrap();
    let mut edit = store.edit(&header.room_id, None).unwrap().unwrap();
    for line in lines {
        let event = edit.event_num(edit.room_num(), &line.unwrap().event_id).unwrap().unwrap();
        let mut node = edit.node(event).unwrap();
        (node.depth, node.state_after) = (node.depth + 1, None);
        edit.put_node(event, node).unwrap();
    }
    edit.room.outliers = 7;
    edit.commit().unwrap();
    store.flush().unwrap();
}

#[test]
fn killed_on_its_way_a_repair_comes_to_the_same() {
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
    let begun = Instant::now();
    process::run(["verify", "--repair", "--data-dir", undisturbed.to_str().unwrap()]);
    let takes = begun.elapsed();
    let args = ["verify", "--repair", "--data-dir", data_dir.to_str().unwrap()];
    let (mut left, mut random) = (vec![faults_of(&data_dir)], Random::new(2));
    for part in (1..).take(KILLS.try_into().unwrap()) {
        let (child, begun) = (begin(&args), Instant::now());
        kill(child, || begun.elapsed() > takes * part / 6, &mut random);
        left.push(faults_of(&data_dir));
    }
    println!("faults left: {left:?}");
    assert!(left[0] > 1_000 && left[1] > 0, "it was too fast");
    let said = process::stdout(process::run(args));
    assert!(said.ends_with(" 0 left\n"), "{said}");
    let service = Process::start(&data_dir, &["--reserved-mib", "0"]);
    assert!(all(&service, &room_ids) == before, "it is not what it was");
}

/// How many faults a store has that nobody has open.
fn faults_of(data_dir: &Path) -> usize {
    let dir = tempfile::tempdir().unwrap();
    folder::copy(data_dir, dir.path()).unwrap();
    faults::of(&Store::open(&Options::small(dir.path())).unwrap()).len()
}
