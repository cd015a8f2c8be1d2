//! Imports of unusual room files with the real commands: files with unreadable events, and a state that
//! only a later import contains.

use std::{fs, path::Path};

use backscroll::{
    pdu::RoomVersion,
    room_format::{Header, Line, write_header, write_line},
};
use backscroll_testkit::{Event, Room, process::Ended};
use serde_json::{json, value::RawValue};

use crate::support::{
    clients::Clients,
    events::DraftExt as _,
    process::{self, Process},
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";

fn line(event: &Event, state_after: &[String]) -> Line {
    Line {
        event_id: event.event_id.clone(),
        pdu: RawValue::from_string(event.pdu.clone()).unwrap(),
        outlier: false,
        rejected: false,
        soft_failed: false,
        arrival: None,
        state_after: state_after.to_vec(),
    }
}

fn write(path: &str, room: &Room, lines: &[Line]) {
    let mut text = Vec::new();
    let (room_id, room_version) = (room.room_id.clone(), room.version.to_string());
    write_header(&mut text, &Header { room_id, room_version, erased_users: vec![] }).unwrap();
    lines.iter().for_each(|it| write_line(&mut text, it).unwrap());
    fs::write(path, text).unwrap();
}

/// The first events of a room: two members and a message.
fn begin(room: &Room, create: Event) -> Vec<Event> {
    let mut events = vec![create];
    for draft in [
        room.member(ALICE, ALICE, "join"),
        room.member(BOB, BOB, "join"),
        room.message(BOB, "hello"),
    ] {
        let event = draft.after(events.last()).finish();
        events.push(event);
    }
    events
}

#[test]
fn unreadable_events_are_reported_stored_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let mut events = begin(&room, create);
    let deep = |it: String| it.replace("\"depth\":5", "\"depth\":9007199254740992");
    let half = |it: String| it.replace("\"odd\"", "\"\\ud800\"");
    let content = room.message(ALICE, "odd").with("content", json!([]));
    for draft in [
        room.message(BOB, "odd").after(events.last()).unreadable(deep),
        room.message(BOB, "odd").after(events.last()).unreadable(half),
        content.after(events.last()).unreadable(|it| it),
    ] {
        events.push(draft);
    }
    events.push(room.message(BOB, "after").after(&events[4..]).with("depth", json!(9)).finish());
    let lines: Vec<Line> = events.iter().map(|it| line(it, &[])).collect();
    write(&path("room.ndjson"), &room, &lines);

    let service = Process::start(Path::new(&path("first")), &["--reserved-mib", "0"]);
    let output = service.command(&["import", &path("room.ndjson")]);
    let named = String::from_utf8(output.stderr.clone()).unwrap();
    for (number, event) in (6..).zip(&events[4..7]) {
        let begins = format!("room.ndjson:{number}: {} is unreadable: ", event.event_id);
        assert!(named.contains(&begins), "{named}");
    }
    let said = process::stdout(output);
    assert!(said.contains("8 events appended, 0 held already, 0 refused"), "{said}");
    assert!(said.contains("3 break the format"), "{said}");
    // With --strict the exit code is 1.
    let output = service.command(&["import", "--strict", &path("room.ndjson")]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("0 events appended, 8 held already, 0 refused"), "{said}");

    let [room_id, odd, last] =
        [&room.room_id, &events[5].event_id, &events[7].event_id].map(String::as_str);
    let exported = process::stdout(service.command(&["export", room_id]));
    assert_eq!(exported, fs::read_to_string(path("room.ndjson")).unwrap());
    let explain = |event_id: &str| {
        process::stdout(service.command(&["explain", room_id, event_id, "two.example"]))
    };
    assert!(explain(odd).contains("half a surrogate pair"), "{}", explain(odd));
    assert!(explain(last).starts_with("full: "), "{}", explain(last));
    assert!(process::stdout(service.command(&["graph", room_id])).contains("unreadable"));
    let stats = process::stdout(service.command(&["stats"]));
    assert!(stats.contains("unreadable events    3"), "{stats}");

    process::stdout(service.command(&["backup", &path("backup")]));
    assert_eq!(service.stop().code, Some(0));
    process::stdout(process::run(["verify", "--data-dir", &path("first")]));
    process::stdout(process::run(["verify", "--repair", "--data-dir", &path("first")]));
    process::stdout(process::run(["verify", "--backup", &path("backup")]));
    let restored = path("second");
    process::stdout(process::run(["restore", &path("backup"), "--data-dir", &restored]));
    process::stdout(process::run(["verify", "--data-dir", &restored]));
    let service = Process::start(Path::new(&restored), &["--reserved-mib", "0"]);
    assert_eq!(process::stdout(service.command(&["export", room_id])), exported);
}

#[test]
fn a_later_import_gives_a_missing_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let events = begin(&room, create);
    let state: Vec<String> = events[..3].iter().map(|it| it.event_id.clone()).collect();
    let tip = room.message(BOB, "tip").after_id("$not-held").finish();
    let known: Vec<Line> = events.iter().map(|it| line(it, &[])).collect();
    let without = [known.clone(), vec![line(&tip, &[])]].concat();
    write(&path("without.ndjson"), &room, &without);
    write(&path("with.ndjson"), &room, &[known, vec![line(&tip, &state)]].concat());

    let service = Process::start(Path::new(&path("first")), &["--reserved-mib", "0"]);
    let said = process::stdout(service.command(&["import", &path("without.ndjson")]));
    assert!(said.contains("1 have no known state"), "{said}");
    let room_id = room.room_id.as_str();
    let explain = |service: &Process, event: &Event, server: &str| {
        process::stdout(service.command(&["explain", room_id, &event.event_id, server]))
    };
    let explained = explain(&service, &tip, "two.example");
    assert!(explained.starts_with("redacted: "), "{explained}");
    assert!(
        explained.contains(&tip.event_id),
        "the event whose state is missing is named: {explained}"
    );
    assert!(explain(&service, &events[3], "two.example").starts_with("full: "));
    assert!(explain(&service, &events[3], "no.example").starts_with("refused: "));
    let stats = process::stdout(service.command(&["stats"]));
    assert!(stats.contains("served by the last known state") && stats.contains(&tip.event_id));
    // Access is the same after an export and an import into another store.
    let output = service.command(&["export", room_id]);
    assert!(String::from_utf8(output.stderr.clone()).unwrap().contains(&tip.event_id));
    fs::write(path("exported.ndjson"), process::stdout(output)).unwrap();
    let second = Process::start(Path::new(&path("second")), &["--reserved-mib", "0"]);
    process::stdout(second.command(&["import", &path("exported.ndjson")]));
    assert!(explain(&second, &events[3], "two.example").starts_with("full: "));
    assert!(explain(&second, &events[3], "no.example").starts_with("refused: "));

    let said = process::stdout(service.command(&["import", &path("with.ndjson")]));
    assert!(said.contains("0 events appended, 4 held already, 0 refused"), "{said}");
    assert!(said.contains("1 were held already, and took the state"), "{said}");
    assert!(explain(&service, &tip, "two.example").starts_with("full: "));
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0));
    assert!(log.contains("known last") && log.contains("known again"), "{log}");
    assert!(log.contains(&tip.event_id), "the log names the event: {log}");
}

/// An event without a number has that after the event on the line before. Events are exported in the
/// order of their numbers.
#[tokio::test(flavor = "multi_thread")]
async fn arrival_numbers_are_exported_and_imported() {
    const NUMBERS: [i64; 7] = [0, 1, -7, -6, 40, 41, i64::MAX];
    const WRITTEN: [Option<i64>; 7] = [None, None, Some(-7), None, Some(40), None, Some(i64::MAX)];
    const EXPORTED: [(usize, Option<i64>); 7] = [
        (2, Some(-7)),
        (3, None),
        (0, Some(0)),
        (1, None),
        (4, Some(40)),
        (5, None),
        (6, Some(i64::MAX)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let mut events = begin(&room, create);
    while events.len() < NUMBERS.len() {
        events.push(room.message(ALICE, "a message").after(events.last()).finish());
    }
    let of = |event: &Event, arrival| Line { arrival, ..line(event, &[]) };
    let lines: Vec<Line> =
        events.iter().zip(WRITTEN).map(|(event, arrival)| of(event, arrival)).collect();
    write(&path("room.ndjson"), &room, &lines);
    let exported = EXPORTED.map(|(at, arrival)| of(&events[at], arrival));
    write(&path("expected.ndjson"), &room, &exported);
    let mut file = path("room.ndjson");
    for name in ["first", "second"] {
        let service = Process::start(Path::new(&path(name)), &["--reserved-mib", "0"]);
        process::stdout(service.command(&["import", &file]));
        let (_, held) = Clients::connect(&service).await.room(&room.room_id).await.unwrap();
        let held: Vec<(String, i64)> =
            held.into_iter().map(|it| (it.event_id, it.arrival)).collect();
        let expected = EXPORTED.map(|(at, _)| (events[at].event_id.clone(), NUMBERS[at]));
        assert_eq!(held, expected, "{name}");
        let exported = process::stdout(service.command(&["export", &room.room_id]));
        assert_eq!(exported, fs::read_to_string(path("expected.ndjson")).unwrap(), "{name}");
        file = path("exported.ndjson");
        fs::write(&file, exported).unwrap();
    }
}
