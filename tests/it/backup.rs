//! A backup that is made while events are appended, then restored: the rooms have the same events and
//! states, and purged events and deleted rooms do not return.

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use backscroll::{
    backup::{self, BackupStart, BackupWriter, Contents, Tombstones, Totals},
    proto::v1::{
        self as pb, admin_service_client::AdminServiceClient,
        feeder_service_client::FeederServiceClient, ingest_service_client::IngestServiceClient,
    },
};
use backscroll_testkit::process::Ended;
use tonic::transport::Channel;

use crate::support::{
    process::{self, Process},
    rooms::{self, RecordedRoom},
};

fn file(room: &RecordedRoom) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    tests.join(&room.name).join("room.ndjson").to_str().unwrap().to_owned()
}

fn export(service: &Process, room: &RecordedRoom) -> String {
    process::stdout(service.command(&["export", &room.header.room_id]))
}

/// Marks a user who is in no room as erased.
#[tokio::main]
async fn erase(url: &str, user_id: &str) {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let request = pb::SetUserErasedRequest { user_id: user_id.to_owned(), erased: true };
    IngestServiceClient::new(channel).set_user_erased(request).await.unwrap();
}

/// Stores a cursor, and decides that a room is not served.
#[tokio::main]
async fn feed(url: &str, room_id: &str) {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let feeder_name = "synapse".to_owned();
    let request = pb::PutCursorRequest { feeder_name, cursor: vec![0, 255].into() };
    FeederServiceClient::new(channel.clone()).put_cursor(request).await.unwrap();
    let request = pb::SetRoomsServedRequest {
        room_ids: vec![room_id.to_owned()],
        not_served_reason: pb::NotServedReason::PartialState.into(),
    };
    IngestServiceClient::new(channel).set_rooms_served(request).await.unwrap();
}

/// The cursor, and the rooms that are not served.
#[tokio::main]
async fn fed(url: &str) -> (Vec<u8>, Vec<pb::RoomNotServed>) {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let request = pb::GetCursorRequest { feeder_name: "synapse".to_owned() };
    let cursor = FeederServiceClient::new(channel.clone()).get_cursor(request).await.unwrap();
    let request = pb::ListRoomsNotServedRequest::default();
    let list = AdminServiceClient::new(channel).list_rooms_not_served(request).await.unwrap();
    let fed = (cursor.into_inner().cursor.to_vec(), list.into_inner().rooms);
    assert_eq!((fed.0.len(), fed.1.len()), (2, 1), "{fed:?}");
    fed
}

#[tokio::main]
async fn erased(url: &str) -> Vec<String> {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let request = pb::ListErasedUsersRequest::default();
    let list = AdminServiceClient::new(channel).list_erased_users(request).await.unwrap();
    list.into_inner().user_ids
}

#[test]
fn a_backup_under_load_restores_the_same_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let all = rooms::bundled();
    let (settled, coming) = all.split_at(all.len() / 2);
    let service = Process::start(Path::new(&path("first")), &["--reserved-mib", "0"]);
    for room in settled {
        process::stdout(service.command(&["import", &file(room)]));
    }
    let purged = settled.iter().find(|it| it.name == "forks-v2").unwrap();
    let middle = &purged.lines[purged.lines.len() / 2].event_id;
    let said = process::stdout(service.command(&["purge", &purged.header.room_id, middle]));
    assert!(!said.starts_with("0 events"), "{said}");

    let deleted = settled.iter().find(|it| it.name == "acl-v10").unwrap();
    process::stdout(service.command(&["delete-room", &deleted.header.room_id]));
    erase(&service.url(), "@nowhere:hs1.example");
    let importing = settled.iter().find(|it| it.name == "chaos0-v10").unwrap();
    feed(&service.url(), &importing.header.room_id);

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for room in coming.iter().cycle() {
                process::stdout(service.command(&["import", &file(room)]));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        process::stdout(service.command(&["backup", &path("backup")]));
        done.store(true, Ordering::Relaxed);
    });
    process::stdout(process::run(["verify", "--backup", &path("backup")]));
    process::stdout(process::run(["restore", &path("backup"), "--data-dir", &path("second")]));
    let verified = process::stdout(process::run(["verify", "--data-dir", &path("second")]));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");

    let restored = Process::start(Path::new(&path("second")), &["--reserved-mib", "0"]);
    for room in settled.iter().filter(|it| it.name != deleted.name) {
        let expected = export(&service, room);
        assert!(export(&restored, room) == expected, "{}", room.name);
        for line in expected.lines().skip(1).step_by(5) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let event_id = line["event_id"].as_str().unwrap();
            let state = |it: &Process| {
                let output = it.command(&["state", &room.header.room_id, event_id]);
                (output.status.code(), output.stdout)
            };
            assert_eq!(state(&restored), state(&service), "{} {event_id}", room.name);
        }
    }
    // A room that was written during the backup is restored as it was at one moment.
    let manifest = fs::read_to_string(dir.path().join("backup/manifest.ndjson")).unwrap();
    let entries = manifest.lines().map(|it| serde_json::from_str::<serde_json::Value>(it).unwrap());
    for entry in entries.filter(|it| it.get("room").is_some()) {
        let backed_up = dir.path().join("backup").join(entry["room"]["file"].as_str().unwrap());
        let room_id = entry["room"]["room_id"].as_str().unwrap();
        let exported = process::stdout(restored.command(&["export", room_id]));
        assert!(exported == fs::read_to_string(backed_up).unwrap(), "{room_id}");
    }
    let said = process::stdout(restored.command(&["import", &file(purged)]));
    assert!(said.contains("were not stored"), "{said}");
    assert!(export(&restored, purged) == export(&service, purged));
    let said = process::stdout(restored.command(&["import", &file(deleted)]));
    assert!(said.contains("0 events appended") && said.contains("were not stored"), "{said}");
    assert_eq!(fed(&restored.url()), fed(&service.url()));
    assert!(erased(&restored.url()).contains(&"@nowhere:hs1.example".to_owned()));
    for service in [service, restored] {
        let Ended { code, log } = service.stop();
        assert_eq!(code, Some(0), "{log}");
    }
}

/// Adds a room to a backup.
fn add(backup: &mut BackupWriter, name: &str) {
    let mut file = backup.begin_room().unwrap();
    writeln!(file, "{name}").unwrap();
    backup.end_room(file, None, name, 1).unwrap();
}

#[test]
fn a_continued_backup_keeps_finished_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let mut cut_off = BackupWriter::open(dir.path()).unwrap();
    ["first", "second", "third"].iter().for_each(|it| add(&mut cut_off, it));
    drop(cut_off);
    fs::write(dir.path().join("rooms/000002.ndjson"), "damaged").unwrap();

    let mut backup = BackupWriter::open(dir.path()).unwrap();
    let has = ["first", "second", "third", "fourth"].map(|it| backup.has(it));
    assert_eq!(has, [true, false, true, false]);
    ["second", "fourth"].iter().for_each(|it| add(&mut backup, it));
    assert_eq!(backup.finish(Tombstones::default()).unwrap(), Totals { rooms: 4, events: 4 });
    let rooms = backup::contents(dir.path()).unwrap().rooms;
    for room in rooms {
        let held = fs::read_to_string(dir.path().join(&room.file)).unwrap();
        assert_eq!(held, format!("{}\n", room.room_id), "{}", room.file);
    }
}

/// What was read before the first room is kept when a backup is continued: a later cursor could leave
/// out what a room of the first run does not have.
#[test]
fn a_continued_backup_keeps_the_first_cursors_and_every_room_that_was_not_served() {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut cut_off = BackupWriter::open(dir.path()).unwrap();
    assert!(!cut_off.is_begun());
    let start = BackupStart {
        cursors: map(&[("synapse", "AA==")]),
        not_served: map(&[("!a:b", "importing"), ("!b:b", "importing")]),
    };
    cut_off.begin(start.clone()).unwrap();
    add(&mut cut_off, "!a:b");
    drop(cut_off);
    let backup = BackupWriter::open(dir.path()).unwrap();
    assert!(backup.is_begun());
    let not_served = map(&[("!b:b", "differs"), ("!c:b", "blocked")]);
    backup.finish(Tombstones { not_served, ..Tombstones::default() }).unwrap();
    let contents = backup::contents(dir.path()).unwrap();
    let Contents { start: kept, rooms, tombstones } = contents;
    assert_eq!((kept, rooms.len()), (start, 1));
    let all = map(&[("!a:b", "importing"), ("!b:b", "differs"), ("!c:b", "blocked")]);
    assert_eq!(tombstones.not_served, all);
}

/// A room of a backup that was begun without cursors may be older than every later cursor.
#[test]
fn a_continued_backup_without_cursors_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut cut_off = BackupWriter::open(dir.path()).unwrap();
    cut_off.begin(BackupStart::default()).unwrap();
    add(&mut cut_off, "!a:b");
    drop(cut_off);
    assert!(BackupWriter::open(dir.path()).unwrap().is_begun());
}
