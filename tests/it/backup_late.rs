//! A backup of rooms that changed late: bans that redact, content that was removed, and a verdict that
//! was replaced a moment before.

use std::{fs, path::Path, sync::Arc, time::Duration};

use backscroll::{
    context::Context,
    ingest::{self, NewEvent, Replace, Verdict},
    pdu::RoomVersion,
    proto::v1::{self as pb, admin_service_client::AdminServiceClient},
    server,
    store::{Deriving as _, Options, Store, View as _},
};
use backscroll_testkit::{Event, Room, within};
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};

use crate::support::{
    answers,
    clients::{Clients, request},
    events::RoomExt as _,
    process::{self, Process},
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
const BILL: &str = "@bill:two.example";
const PATIENCE: Duration = Duration::from_secs(120);
const FLAGS: [&str; 4] = ["--reserved-mib", "0", "--redacted-content-days", "0"];

/// Backs up a running service and restores the backup into a new store, which must have no faults.
fn back_up_and_restore(url: &str, backup: &str, data_dir: &str) {
    process::stdout(process::run(["backup", backup, "--server", url]));
    process::stdout(process::run(["verify", "--backup", backup]));
    process::stdout(process::run(["restore", backup, "--data-dir", data_dir]));
    let args = ["verify", "--redacted-content-days", "0", "--data-dir", data_dir];
    let verified = process::stdout(process::run(args));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
}

async fn bans(service: &Process) -> Vec<pb::BanRedaction> {
    let mut admin = AdminServiceClient::connect(service.url()).await.unwrap();
    let request = pb::ListBanRedactionsRequest::default();
    admin.list_ban_redactions(request).await.unwrap().into_inner().bans
}

/// A room in which one message was redacted, and two users send messages. The last one is the late one
/// of the second user.
fn talk(room: &Room, create: Event) -> Vec<Event> {
    let mut events = vec![create];
    let joins = [ALICE, BOB, BILL].map(|it| room.member(it, it, "join"));
    for draft in joins {
        events.push(draft.after(events.last()).finish());
    }
    events.push(room.message(ALICE, "alpha").after(events.last()).finish());
    let redaction = room.redaction(ALICE, &events[4].event_id);
    events.push(redaction.after(events.last()).finish());
    for draft in
        [room.message(BOB, "beta"), room.message(BILL, "gamma"), room.message(BILL, "delta")]
    {
        events.push(draft.after(events.last()).finish());
    }
    events
}

/// Whether any file of a backup contains a text.
fn contains(backup: &Path, text: &str) -> bool {
    let rooms = fs::read_dir(backup.join("rooms")).unwrap().map(|it| it.unwrap().path());
    let mut files = rooms.chain([backup.join("manifest.ndjson")]);
    files.any(|it| fs::read_to_string(it).unwrap().contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_that_redact_and_the_removal_of_content_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new("10", ALICE);
    let events = talk(&room, create);
    let late = events.last().unwrap();
    let appends: Vec<_> = (0..)
        .zip(&events)
        .map(|(at, it)| pb::AppendEventsRequest {
            arrival: Some(10 * at),
            ..request(&room, &it.pdu)
        })
        .collect();
    let before_arrival = appends.last().unwrap().arrival;
    let service = Process::start(Path::new(&path("first")), &FLAGS);
    let mut clients = Clients::connect(&service).await;
    clients.append(appends.clone()).await.unwrap();
    for (user_id, before_arrival) in [(BOB, None), (BILL, before_arrival)] {
        let ban = pb::SetBanRedactionRequest {
            room_id: room.room_id.clone(),
            user_id: user_id.to_owned(),
            ban_event_id: "$ban".to_owned(),
            before_arrival,
        };
        clients.ingest.set_ban_redaction(ban).await.unwrap();
    }
    let exported = |service: &Process| process::stdout(service.command(&["export", &room.room_id]));
    within(PATIENCE, "the content is removed", || {
        let text = exported(&service);
        assert!(text.contains("delta"), "{text}");
        ["alpha", "beta", "gamma"].iter().all(|it| !text.contains(it))
    });
    back_up_and_restore(&service.url(), &path("backup"), &path("second"));
    let backup = dir.path().join("backup");
    let found = ["alpha", "beta", "gamma", "delta"].map(|it| contains(&backup, it));
    assert_eq!(found, [false, false, false, true]);

    let restored = Process::start(Path::new(&path("second")), &FLAGS);
    assert_eq!(bans(&restored).await, bans(&service).await);
    assert_eq!(bans(&restored).await.len(), 2);
    let mut both = [clients, Clients::connect(&restored).await];
    // The whole events do not return, and the bans hold for events that come later.
    let by_bob = room.message(BOB, "later").after([late]).finish();
    let by_bill = room.message(BILL, "later").after([late]).finish();
    let mut rooms = Vec::new();
    for clients in &mut both {
        clients.append(appends.clone()).await.unwrap();
        let later = [&by_bob, &by_bill].map(|it| request(&room, &it.pdu));
        clients.append(later.to_vec()).await.unwrap();
        let (_, mut held) = clients.room(&room.room_id).await.unwrap();
        // The content of the last two may be removed at any moment.
        held[events.len()..].iter_mut().for_each(|it| it.pdu.clear());
        rooms.push(held);
    }
    assert_eq!(rooms[0], rooms[1]);
    let redacted: Vec<bool> = rooms[1].iter().map(|it| it.redacted).collect();
    let [no, yes] = [false, true];
    assert_eq!(redacted, [no, no, yes, yes, yes, no, yes, yes, no, yes, no]);
    assert!(["alpha", "beta", "gamma"].iter().all(|it| !exported(&restored).contains(it)));
}

/// The backup contains the new verdict, and what follows from it is derived when it is restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_whose_consequences_are_not_derived_yet_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let mut events = vec![create];
    let topic = room.state(ALICE, "m.room.topic", "", json!({"topic": "a topic"}));
    for draft in [room.member(ALICE, ALICE, "join"), topic, room.message(ALICE, "hello")] {
        events.push(draft.after(events.last()).finish());
    }
    let store = Store::open(&Options::small(Path::new(&path("first")))).unwrap();
    let cx = Arc::new(Context::new(store));
    let append = |event: &NewEvent<'_>| drop(ingest::append_unflushed(&cx, event).unwrap());
    events.iter().for_each(|it| append(&room.accepted(it)));
    let (topic, tip) = (&events[2], &events[3].event_id);
    let has_topic = |cx: &Context| {
        let state = answers::state(cx, &room.room_id, tip).unwrap();
        state.values().any(|it| *it == topic.event_id)
    };
    assert!(has_topic(&cx));
    let rejected =
        NewEvent { verdict: Verdict::Rejected, replace: Replace::Changed, ..room.accepted(topic) };
    append(&rejected);
    // Nothing is derived while the room is not in the queue.
    while cx.backlog.take().is_some() {}
    let is_deriving = |cx: &Context| {
        let number = cx.store.room_num(&room.room_id).unwrap().unwrap();
        cx.store.is_deriving(number).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Arc::clone(&cx);
    let serving = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        server::serve(serving, listener, Duration::from_secs(5), stopped).await.unwrap();
    });
    back_up_and_restore(&url, &path("backup"), &path("second"));
    assert!(is_deriving(&cx) && has_topic(&cx), "nothing was derived during the backup");
    stop.send(()).unwrap();
    serving.await.unwrap();

    let cx = server::open(&Options::small(Path::new(&path("second")))).unwrap();
    while ingest::work_off(&cx).unwrap() != ingest::NotesLeft::None {}
    assert!(!is_deriving(&cx) && !has_topic(&cx));
    assert_eq!(cx.store.rooms_not_served("", 9).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redaction_whose_content_was_removed_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new("10", ALICE);
    let mut events = vec![create];
    events.push(room.member(ALICE, ALICE, "join").after(events.last()).finish());
    let target = room.message(ALICE, "alpha").after(events.last()).finish();
    let first = room.redaction(ALICE, &target.event_id).after(events.last()).finish();
    let second = room.redaction(ALICE, &first.event_id).after([&first]).finish();
    events.extend([first.clone(), second]);
    let appends: Vec<_> = events.iter().map(|it| request(&room, &it.pdu)).collect();
    let service = Process::start(Path::new(&path("first")), &FLAGS);
    let mut clients = Clients::connect(&service).await;
    clients.append(appends).await.unwrap();
    within(PATIENCE, "the content is removed", || {
        process::stdout(service.command(&["export", &room.room_id])).contains("\"kept\"")
    });
    back_up_and_restore(&service.url(), &path("backup"), &path("second"));
    let restored = Process::start(Path::new(&path("second")), &FLAGS);
    let mut both = [clients, Clients::connect(&restored).await];
    let mut found = Vec::new();
    for clients in &mut both {
        clients.append(vec![request(&room, &target.pdu)]).await.unwrap();
        let held =
            clients.events(&room.room_id, std::slice::from_ref(&target.event_id)).await.unwrap();
        found.push(held[0].redacted);
    }
    assert_eq!(found, [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_whose_content_was_removed_last() {
    const CAROL: &str = "@carol:one.example";
    const DAVE: &str = "@dave:one.example";
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (room, create) = Room::new("10", ALICE);
    let ids = |it: &[&Event]| it.iter().map(|it| it.event_id.clone()).collect::<Vec<_>>();
    let join =
        room.member(ALICE, ALICE, "join").after([&create]).authorised_by(ids(&[&create])).finish();
    let content = json!({"users": {ALICE: 100}, "invite": 50});
    let levels = room
        .state(ALICE, "m.room.power_levels", "", content)
        .after([&join])
        .authorised_by(ids(&[&create, &join]))
        .finish();
    let rules = room
        .state(ALICE, "m.room.join_rules", "", json!({"join_rule": "public"}))
        .after([&levels])
        .authorised_by(ids(&[&create, &join, &levels]))
        .finish();
    let carol = room
        .member(CAROL, CAROL, "join")
        .after([&rules])
        .authorised_by(ids(&[&create, &rules, &levels]))
        .finish();
    let invite = room
        .member(CAROL, DAVE, "invite")
        .after([&carol])
        .authorised_by(ids(&[&create, &carol, &rules, &levels]))
        .finish();
    let topic = room
        .state(ALICE, "m.room.topic", "", json!({"topic": "text"}))
        .after([&carol])
        .authorised_by(ids(&[&create, &join, &levels]))
        .finish();
    let redaction = room
        .redaction(ALICE, &levels.event_id)
        .after([&topic])
        .authorised_by(ids(&[&create, &join, &levels]))
        .finish();
    let merged = room
        .message(ALICE, "text")
        .after([&invite, &redaction])
        .authorised_by(ids(&[&create, &join, &levels]))
        .finish();
    let events = [&create, &join, &levels, &rules, &carol, &invite, &topic, &redaction, &merged];
    let appends: Vec<_> = events.iter().map(|it| request(&room, &it.pdu)).collect();
    let service = Process::start(Path::new(&path("first")), &FLAGS);
    Clients::connect(&service).await.append(appends).await.unwrap();
    within(PATIENCE, "the content is removed", || {
        process::stdout(service.command(&["export", &room.room_id])).contains("\"kept\"")
    });
    back_up_and_restore(&service.url(), &path("backup"), &path("second"));
    let restored = Process::start(Path::new(&path("second")), &FLAGS);
    let state =
        |it: &Process| process::stdout(it.command(&["state", &room.room_id, &merged.event_id]));
    assert_eq!(state(&restored), state(&service));
}
