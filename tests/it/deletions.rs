//! Rooms are deleted while other callers read, append, purge, verify, back up and request figures. No
//! response ever reports damage of an undamaged store.

use std::{
    collections::HashMap,
    fs,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use backscroll::{
    context::Context,
    ingest::{self, BatchOutcome, NewEvent, PurgeError, PurgedHistory},
    pdu::RoomVersion,
    proto::v1::{self as pb, admin_service_client::AdminServiceClient},
    query::{
        self, Asker, Backfill, BatchGetEvents, EventList, ExplainAccess, GetMissingEvents,
        GetState, ListDeletedRooms, ListEvents, ListPurgedEvents, ListRooms, PageRequest,
        QueryError, StatePage,
    },
    store::StoreError,
};
use backscroll_testkit::{Event, Room, random::Rounds};
use serde_json::json;
use tonic::{Code, Response, Status, Streaming};

use crate::support::{
    answers,
    clients::{Clients, read_to_end, request},
    events::RoomExt as _,
    faults,
    memory::Memory,
    process::{self, Process},
    rooms,
};

const ALICE: &str = "@alice:one.example";
const EVENTS: usize = 160;
/// How often every room is deleted and appended again.
const ROUNDS: u64 = 12;

/// A room and all of its events.
struct FullRoom {
    room: Room,
    events: Vec<Event>,
}

/// Makes a room of messages and state events with some branches.
fn room(name: &str) -> FullRoom {
    let (room, create) = Room::named(RoomVersion::V10, ALICE, name);
    let mut events = vec![create];
    events.push(room.member(ALICE, ALICE, "join").after(events.last()).finish());
    while events.len() < EVENTS {
        let after = &events[events.len() - 1 - events.len() % 2..];
        let draft = match events.len() % 3 {
            0 => room.state(ALICE, "m.room.topic", "", json!({"topic": events.len()})),
            _ => room.message(ALICE, &"what was said".repeat(20)),
        };
        let next = draft.after(after).finish();
        events.push(next);
    }
    FullRoom { room, events }
}

fn feed(cx: &Context, FullRoom { room, events }: &FullRoom) {
    let events: Vec<NewEvent<'_>> = events.iter().map(|it| room.accepted(it)).collect();
    let BatchOutcome { failure, .. } = ingest::append_all(cx, &events);
    assert!(failure.is_none(), "{failure:?}");
    cx.store.flush().unwrap();
}

fn delete(cx: &Context, room_id: &str) {
    let Some(deleted) = cx.store.delete_room(room_id).unwrap() else { return };
    while cx.store.remove_deleted(deleted).unwrap() > 0 {}
    cx.store.forget_deleted_room(room_id).unwrap();
}

/// Whether a query succeeded; false if it failed for a reason that a deletion explains.
fn sound<T>(asked: &str, answer: Result<T, QueryError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(
            QueryError::NotAllowed(_)
            | QueryError::RoomUnknown(_)
            | QueryError::EventUnknown(_)
            | QueryError::StateUnknown(_)
            | QueryError::RoomChanges(_),
        ) => false,
        Err(other) => panic!("{asked}: {other:?}"),
    }
}

/// Runs every query about a room; returns the number that succeeded. If the room is appended by one
/// thread only, a list must show it as it was at one moment.
fn ask(cx: &Context, FullRoom { room, events }: &FullRoom, is_fed_in_order: bool) -> usize {
    let (id, newest) = (room.room_id.as_str(), &events.last().unwrap().event_id);
    let ids: Vec<String> = events.iter().map(|it| it.event_id.clone()).collect();
    let origin = "one.example".to_owned();
    let backfill = Backfill {
        room_id: id.to_owned(),
        asker: Asker::Server { origin: origin.clone(), destination: origin.clone() },
        event_ids: vec![newest.clone()],
        limit: Some(100),
    };
    let missing = GetMissingEvents {
        room_id: id.to_owned(),
        asker: backfill.asker.clone(),
        earliest_events: vec![],
        latest_events: vec![newest.clone()],
        limit: Some(20),
        min_depth: 0,
    };
    let room_id = || id.to_owned();
    let page = PageRequest::default;
    let listed = list_events(cx, id, PageRequest::first(1_000));
    if let Ok(list) = &listed
        && is_fed_in_order
    {
        let expected = ids.iter().take(list.events.len());
        assert!(list.events.iter().map(|it| &it.event_id).eq(expected), "a torn list");
    }
    let batch = BatchGetEvents { room_id: room_id(), event_ids: ids };
    let state_after = GetState { room_id: room_id(), event_id: newest.clone(), page: page() };
    let purged = ListPurgedEvents { room_id: room_id(), page: page() };
    let destination = origin.clone();
    let explain =
        ExplainAccess { room_id: room_id(), event_id: newest.clone(), origin, destination };
    let answers = [
        sound("list_events", listed),
        sound("backfill", answers::ask(cx, &backfill)),
        sound("get_missing_events", answers::ask(cx, &missing)),
        sound("batch", answers::ask(cx, &batch)),
        sound("get_room", answers::room(cx, id)),
        sound("get_state", get_state(cx, id, page())),
        sound("get_state after", answers::ask(cx, &state_after)),
        sound("list_purged", answers::ask(cx, &purged)),
        sound("explain", answers::ask(cx, &explain)),
        sound("stats", query::stats(cx)),
        sound("list_rooms", answers::ask(cx, &ListRooms { page: page() })),
        sound("list_deleted_rooms", answers::ask(cx, &ListDeletedRooms { page: page() })),
    ];
    answers.iter().filter(|it| **it).count()
}

fn purge(cx: &Context, FullRoom { room, events }: &FullRoom, at: usize) {
    let (room_id, event_id) = (&room.room_id, &events[at].event_id);
    let purged = PurgedHistory { room_id, event_id, may_return: false };
    match ingest::purge_history(&cx.store, purged, &mut |_| ControlFlow::Continue(())) {
        Ok(_) | Err(PurgeError::RoomUnknown(_) | PurgeError::EventUnknown(_)) => {}
        Err(PurgeError::Store(failure)) => panic!("purge: {failure:?}"),
    }
}

/// Stops the other threads, also when this thread panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Repeats some work until `done`.
fn until(done: &AtomicBool, mut work: impl FnMut(usize)) {
    let mut nth = 0;
    while !done.load(Ordering::Relaxed) {
        work(nth);
        nth += 1;
    }
}

#[test]
fn no_query_reports_damage_while_rooms_are_deleted() {
    let memory = Memory::new();
    let rooms: Vec<_> = ["a", "b", "c"].map(room).into();
    let (cx, done) = (&memory.cx, AtomicBool::new(false));
    rooms.iter().for_each(|it| feed(cx, it));
    let answered = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                let both = rooms.iter().zip([false, false, true]);
                answered += both.map(|(room, in_order)| ask(cx, room, in_order)).sum::<usize>();
            }
            answered
        });
        let feeding = scope.spawn(|| until(&done, |nth| feed(cx, &rooms[nth % 2])));
        let verifying = scope.spawn(|| {
            until(&done, |_| {
                let found = faults::of(&cx.store);
                assert!(found.is_empty(), "{found:?}");
            });
        });
        let ends = Ends(&done);
        for _ in 0..Rounds::of("DELETION", ROUNDS).count {
            for room in &rooms {
                delete(cx, &room.room.room_id);
                feed(cx, room);
            }
        }
        drop(ends);
        feeding.join().unwrap();
        verifying.join().unwrap();
        asking.join().unwrap()
    });
    assert!(answered > 0, "no query succeeded");
    assert_eq!(faults::of(&memory.cx.store), []);
}

/// The same during a purge, which removes some of the listed events.
#[test]
fn a_purge_and_a_deletion_run_at_the_same_time() {
    let memory = Memory::new();
    let (cx, done) = (&memory.cx, AtomicBool::new(false));
    let room = room("a");
    feed(cx, &room);
    thread::scope(|scope| {
        let purging = scope.spawn(|| {
            until(&done, |nth| purge(cx, &room, 1 + nth * 37 % (EVENTS - 1)));
        });
        let reading = scope.spawn(|| {
            let id = room.room.room_id.as_str();
            until(&done, |_| {
                sound("list_events", list_events(cx, id, PageRequest::first(1_000)));
                sound("get_state", get_state(cx, id, PageRequest::default()));
                sound("stats", query::stats(cx));
            });
        });
        let ends = Ends(&done);
        for _ in 0..Rounds::of("DELETION", 3 * ROUNDS).count {
            delete(cx, &room.room.room_id);
            feed(cx, &room);
        }
        drop(ends);
        purging.join().unwrap();
        reading.join().unwrap();
    });
    assert_eq!(faults::of(&memory.cx.store), []);
}

/// A purge works in slices and looks its room up for each slice.
#[test]
fn a_purge_spares_a_room_that_was_appended_after_a_deletion() {
    let memory = Memory::new();
    let room = room("a");
    feed(&memory.cx, &room);
    let (id, newest) = (room.room.room_id.as_str(), &room.events.last().unwrap().event_id);
    // After the only slice, before unused states are removed.
    let mut watch = |_| {
        delete(&memory.cx, id);
        feed(&memory.cx, &room);
        ControlFlow::Continue(())
    };
    let purged = PurgedHistory { room_id: id, event_id: newest, may_return: false };
    let ended = ingest::purge_history(&memory.cx.store, purged, &mut watch);
    assert!(matches!(ended, Err(PurgeError::RoomUnknown(_))), "{ended:?}");
    assert_eq!(answers::events(&memory.cx, id).len(), EVENTS);
    assert_eq!(faults::of(&memory.cx.store), []);
}

#[test]
fn a_list_does_not_continue_in_a_room_that_was_appended_after_a_deletion() {
    let memory = Memory::new();
    let room = room("a");
    let cx = &memory.cx;
    let id = room.room.room_id.clone();
    feed(cx, &room);
    let events = list_events(cx, &id, PageRequest::first(10)).unwrap().next_page_token;
    let state = get_state(cx, &id, PageRequest::first(1)).unwrap().next_page_token;
    assert!(!events.is_empty() && !state.is_empty());
    let next = |size: u32, token: &String| PageRequest { size, token: token.clone() };
    list_events(cx, &id, next(10, &events)).unwrap();
    delete(cx, &id);
    feed(cx, &room);
    let unknown = |it: QueryError| matches!(it, QueryError::RoomUnknown(_));
    assert!(unknown(list_events(cx, &id, next(10, &events)).unwrap_err()));
    assert!(unknown(get_state(cx, &id, next(1, &state)).unwrap_err()));
}

fn list_events(cx: &Context, room_id: &str, page: PageRequest) -> Result<EventList, QueryError> {
    answers::ask(cx, &ListEvents { room_id: room_id.to_owned(), max_append_number: 0, page })
}

fn get_state(cx: &Context, room_id: &str, page: PageRequest) -> Result<StatePage, QueryError> {
    let (room_id, event_id) = (room_id.to_owned(), String::new());
    answers::ask(cx, &GetState { room_id, event_id, page })
}

/// A missing record in a store that no other thread changes is damage.
#[test]
fn a_lost_record_is_damage() {
    let missing = StoreError::Missing { what: "body", key: "05".to_owned() };
    assert!(matches!(missing.at_rest(), StoreError::Corrupt { what: "body", .. }));
}

/// The same over gRPC, for every RPC.
#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_treats_a_deleted_room_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let mut clients = Clients::connect(&service).await;
    let FullRoom { room, events } = room("a");
    let id = room.room_id.as_str();
    let requests: Vec<_> = events.iter().map(|it| request(&room, &it.pdu)).collect();
    clients.append(requests.clone()).await.unwrap();
    let done = AtomicBool::new(false);
    let asking = async {
        let (mut history, mut ingest) = (clients.history.clone(), clients.ingest.clone());
        let mut admin = AdminServiceClient::connect(service.url()).await.unwrap();
        let mut feeding = clients.clone();
        let mut heard: HashMap<(&str, Code), u32> = HashMap::new();
        let (room_id, event_id) = (|| id.to_owned(), || events[EVENTS / 2].event_id.clone());
        while !done.load(Ordering::Relaxed) {
            let list = pb::ListEventsRequest { room_id: room_id(), ..Default::default() };
            let state = pb::GetStateRequest { room_id: room_id(), ..Default::default() };
            let batch = pb::BatchGetEventsRequest {
                room_id: room_id(),
                event_ids: events.iter().map(|it| it.event_id.clone()).collect(),
            };
            let backfill = pb::BackfillRequest {
                feeder_bounds: None,
                room_id: room_id(),
                requester: Some(pb::Requester {
                    origin: "one.example".to_owned(),
                    destination: "one.example".to_owned(),
                }),
                event_ids: vec![event_id()],
                limit: Some(100),
                omit_event_ids: true,
            };
            let purge = pb::PurgeHistoryRequest {
                may_return: false,
                room_id: room_id(),
                event_id: event_id(),
            };
            let verify = pb::VerifyRequest { max_cpu_percent: 100 };
            let asked = [
                (
                    "get_room",
                    code(history.get_room(pb::GetRoomRequest { room_id: room_id() }).await),
                ),
                ("list_events", code(history.list_events(list).await)),
                ("get_state", code(history.get_state(state).await)),
                ("batch_get_events", code(history.batch_get_events(batch).await)),
                ("backfill", code(history.backfill(backfill).await)),
                ("stats", code(admin.stats(pb::StatsRequest {}).await)),
                ("append_events", code(feeding.append(requests.clone()).await)),
                ("purge_history", ended(ingest.purge_history(purge).await).await),
                ("verify", ended(admin.verify(verify).await).await),
            ];
            for it in asked {
                *heard.entry(it).or_default() += 1;
            }
        }
        heard
    };
    let deleting = async {
        let ends = Ends(&done);
        let (mut ingest, mut feeding) = (clients.ingest.clone(), clients.clone());
        for _ in 0..Rounds::of("DELETION", 3 * ROUNDS).count {
            let delete = pb::DeleteRoomRequest { room_id: id.to_owned(), may_return: true };
            let deleted = ended(ingest.delete_room(delete).await).await;
            assert!(matches!(deleted, Code::Ok | Code::NotFound), "{deleted:?}");
            feeding.append(requests.clone()).await.unwrap();
        }
        drop(ends);
    };
    let both = async { tokio::join!(asking, deleting) };
    let (heard, ()) = tokio::time::timeout(Duration::from_secs(300), both).await.unwrap();
    for ((asked, code), times) in &heard {
        use Code::{Aborted, FailedPrecondition, NotFound, Ok, PermissionDenied};
        let expected = matches!(code, Ok | NotFound | Aborted | FailedPrecondition)
            || (*asked, *code) == ("backfill", PermissionDenied);
        assert!(expected, "{asked}: {code:?}, {times} times");
        let has_room = !matches!(*asked, "stats" | "append_events" | "verify");
        assert!(has_room || *code == Ok, "{asked}: {code:?}, {times} times");
    }
    let log = service.stop().log;
    assert!(!log.contains("the store failed"), "{log}");
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |it| it.code())
}

/// The status with which a stream ends.
async fn ended<T>(answer: Result<Response<Streaming<T>>, Status>) -> Code {
    match answer {
        Ok(stream) => code(read_to_end(stream.into_inner()).await),
        Err(status) => status.code(),
    }
}

#[test]
fn backups_continue_while_rooms_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let bundled = rooms::bundled();
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let file = |name: &str| tests.join(name).join("room.ndjson").to_str().unwrap().to_owned();
    for room in &bundled {
        process::stdout(service.command(&["import", &file(&room.name)]));
    }
    let done = AtomicBool::new(false);
    let deleted = thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            let mut deleted = 0;
            for room in bundled.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return deleted;
                }
                let room_id = &room.header.room_id;
                process::stdout(service.command(&["delete-room", room_id, "--may-return"]));
                process::stdout(service.command(&["import", &file(&room.name)]));
                deleted += 1;
            }
            deleted
        });
        let ends = Ends(&done);
        for nth in 0..Rounds::of("DELETION", 4).count {
            let backup = path(&format!("backup-{nth}"));
            process::stdout(service.command(&["backup", &backup]));
            process::stdout(process::run(["verify", "--backup", &backup]));
            // The unfinished file of a deleted room is removed.
            let manifest = fs::read_to_string(format!("{backup}/manifest.ndjson")).unwrap();
            for entry in fs::read_dir(format!("{backup}/rooms")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(manifest.contains(&name), "{name} belongs to no room");
            }
            process::stdout(service.command(&["stats"]));
        }
        drop(ends);
        deleting.join().unwrap()
    });
    assert!(deleted > 0);
    let log = service.stop().log;
    assert!(!log.contains("damaged") && !log.contains("DATA_LOSS"), "{log}");
}
