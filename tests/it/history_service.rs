//! The RPCs over a real socket: every failure has its code and its reason, every list its bound,
//! and the service describes itself.

use backscroll::{pdu::RoomVersion, proto::v1 as pb};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    builder::{Event, Room},
    clients::{Clients, reason, request},
    process::Process,
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
const EVENTS: usize = 250;

struct Stage {
    room: Room,
    events: Vec<Event>,
    clients: Clients,
    _service: Process,
    _dir: tempfile::TempDir,
}

/// A room of two servers, and an event behind a gap, whose state is not known.
async fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
    let mut clients = Clients::connect(&service).await;
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let mut events = vec![create];
    for user in [ALICE, BOB] {
        let joined = room.member(user, user, "join").after(events.last()).finish();
        events.push(joined);
    }
    while events.len() < EVENTS {
        let next = room.message(BOB, "what was said").after(events.last()).finish();
        events.push(next);
    }
    let requests = events.iter().map(|it| request(&room, &it.pdu)).collect();
    clients.append(requests).await.unwrap();
    Stage { room, events, clients, _service: service, _dir: dir }
}

fn requester(origin: &str) -> Option<pb::Requester> {
    Some(pb::Requester { origin: origin.to_owned(), destination: "one.example".to_owned() })
}

fn failed<T>(answer: Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => reason(&status),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_code_and_its_reason() {
    let Stage { room, events, clients, .. } = &stage().await;
    let (mut history, room_id) = (clients.history.clone(), room.room_id.clone());
    let last = events.last().unwrap().event_id.clone();
    let good = pb::BackfillRequest {
        room_id: room_id.clone(),
        requester: requester("two.example"),
        event_ids: vec![last.clone()],
        limit: Some(5),
        omit_event_ids: false,
    };
    assert_eq!(failed(history.backfill(good.clone()).await), (Code::Ok, String::new()));

    use Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};
    let unknown = || "!unknown:one.example".to_owned();
    let backfills = [
        (
            pb::BackfillRequest { room_id: unknown(), ..good.clone() },
            PermissionDenied,
            "NOT_ALLOWED",
        ),
        (
            pb::BackfillRequest { requester: requester("three.example"), ..good.clone() },
            PermissionDenied,
            "NOT_ALLOWED",
        ),
        (
            pb::BackfillRequest { room_id: unknown(), requester: None, ..good.clone() },
            NotFound,
            "ROOM_UNKNOWN",
        ),
        (
            pb::BackfillRequest { event_ids: vec![], ..good.clone() },
            InvalidArgument,
            "EVENT_IDS_MISSING",
        ),
        (pb::BackfillRequest { limit: None, ..good.clone() }, InvalidArgument, "LIMIT_MISSING"),
        (pb::BackfillRequest { limit: Some(0), ..good.clone() }, InvalidArgument, "LIMIT_INVALID"),
        (
            pb::BackfillRequest { requester: requester(""), ..good.clone() },
            InvalidArgument,
            "SERVER_NAME_INVALID",
        ),
        // Who may not ask learns nothing about its mistakes.
        (
            pb::BackfillRequest {
                requester: requester("three.example"),
                event_ids: vec![],
                limit: Some(0),
                ..good.clone()
            },
            PermissionDenied,
            "NOT_ALLOWED",
        ),
    ];
    for (question, code, reason) in backfills {
        let text = format!("{question:?}");
        assert_eq!(failed(history.backfill(question).await), (code, reason.to_owned()), "{text}");
    }
    let missing = pb::GetMissingEventsRequest {
        room_id: unknown(),
        requester: requester("two.example"),
        ..pb::GetMissingEventsRequest::default()
    };
    let refused = (PermissionDenied, "NOT_ALLOWED".to_owned());
    assert_eq!(failed(history.get_missing_events(missing).await), refused);

    let room_unknown = (NotFound, "ROOM_UNKNOWN".to_owned());
    let no_room = pb::GetRoomRequest { room_id: unknown() };
    assert_eq!(failed(history.get_room(no_room).await), room_unknown);
    let no_room = pb::BatchGetEventsRequest { room_id: unknown(), event_ids: vec![] };
    assert_eq!(failed(history.batch_get_events(no_room).await), room_unknown);
    let no_room = pb::ListEventsRequest { room_id: unknown(), ..Default::default() };
    assert_eq!(failed(history.list_events(no_room).await), room_unknown);
    let no_room = pb::ListPurgedEventsRequest { room_id: unknown(), ..Default::default() };
    assert_eq!(failed(history.list_purged_events(no_room).await), room_unknown);
    let no_room = pb::GetStateRequest { room_id: unknown(), ..Default::default() };
    assert_eq!(failed(history.get_state(no_room).await), room_unknown);
    let explain = |room_id: String, event_id: &str, origin: &str| pb::ExplainAccessRequest {
        room_id,
        event_id: event_id.to_owned(),
        requester: requester(origin),
    };
    let no_room = explain(unknown(), &last, "two.example");
    assert_eq!(failed(history.explain_access(no_room).await), room_unknown);

    let event_unknown = (NotFound, "EVENT_UNKNOWN".to_owned());
    let no_event = explain(room_id.clone(), "$none", "two.example");
    assert_eq!(failed(history.explain_access(no_event).await), event_unknown);
    let of_event = |event_id: &str| pb::GetStateRequest {
        room_id: room_id.clone(),
        event_id: event_id.to_owned(),
        ..Default::default()
    };
    assert_eq!(failed(history.get_state(of_event("$none")).await), event_unknown);
    let nobody = explain(room_id.clone(), &last, "");
    let invalid = (InvalidArgument, "SERVER_NAME_INVALID".to_owned());
    assert_eq!(failed(history.explain_access(nobody).await), invalid);

    // Behind a gap no state is known; and where no token was given, none is understood.
    let behind = room.message(BOB, "behind a gap").after_id("$never").finish();
    clients.clone().append(vec![request(room, &behind.pdu)]).await.unwrap();
    let state_unknown = (FailedPrecondition, "STATE_UNKNOWN".to_owned());
    assert_eq!(failed(history.get_state(of_event(&behind.event_id)).await), state_unknown);
    let token = (InvalidArgument, "PAGE_TOKEN_INVALID".to_owned());
    for page_token in ["x", "1", "1.", ".1", "1.x", "99999999999999999999.1", "é", "-"] {
        let page_token = page_token.to_owned();
        let list = pb::ListEventsRequest {
            room_id: room_id.clone(),
            page_token: page_token.clone(),
            ..Default::default()
        };
        assert_eq!(failed(history.list_events(list).await), token, "{page_token}");
        let list = pb::ListPurgedEventsRequest {
            room_id: room_id.clone(),
            page_token: page_token.clone(),
            ..Default::default()
        };
        assert_eq!(failed(history.list_purged_events(list).await), token, "{page_token}");
    }
    let list = pb::GetStateRequest { page_token: "x".to_owned(), ..of_event(&last) };
    assert_eq!(failed(history.get_state(list).await), token);
    let list = pb::ListRoomsRequest { page_size: 1, page_token: "x".to_owned() };
    assert_eq!(failed(history.list_rooms(list).await), token);

    let keys = pb::GetServerKeysRequest { server_name: "none.example".to_owned() };
    let keys_unknown = (NotFound, "KEYS_UNKNOWN".to_owned());
    assert_eq!(failed(clients.keys.clone().get_server_keys(keys).await), keys_unknown);
    let keys = pb::PutServerKeysRequest { answer: "{}".into(), fetched_ts: 0 };
    let keys_invalid = (InvalidArgument, "KEYS_INVALID".to_owned());
    assert_eq!(failed(clients.keys.clone().put_server_keys(keys).await), keys_invalid);
    let mut ingest = clients.ingest.clone();
    let nobody = pb::SetUserErasedRequest { user_id: "nobody".to_owned(), erased: true };
    let user_invalid = (InvalidArgument, "USER_ID_INVALID".to_owned());
    assert_eq!(failed(ingest.set_user_erased(nobody).await), user_invalid);
    let purge = pb::PurgeHistoryRequest { room_id: unknown(), event_id: last };
    let mut answers = ingest.purge_history(purge).await.unwrap().into_inner();
    assert_eq!(failed(answers.message().await), room_unknown);
    let purge = pb::PurgeHistoryRequest { room_id: room_id.clone(), event_id: "$none".to_owned() };
    let mut answers = ingest.purge_history(purge).await.unwrap().into_inner();
    assert_eq!(failed(answers.message().await), event_unknown);
    let delete = pb::DeleteRoomRequest { room_id: unknown(), may_return: true };
    let mut answers = ingest.delete_room(delete).await.unwrap().into_inner();
    assert_eq!(failed(answers.message().await), room_unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_has_its_bound() {
    let Stage { room, events, clients, .. } = &stage().await;
    let (mut history, room_id) = (clients.history.clone(), room.room_id.clone());
    let last = events.last().unwrap().event_id.clone();
    let many = |of: &str| vec![of.to_owned(); 10_000];

    let answer = history.backfill(pb::BackfillRequest {
        room_id: room_id.clone(),
        requester: requester("two.example"),
        event_ids: many(&last),
        limit: Some(u32::MAX),
        omit_event_ids: false,
    });
    assert_eq!(answer.await.unwrap().into_inner().event_ids.len(), 100);
    let answer = history.get_missing_events(pb::GetMissingEventsRequest {
        room_id: room_id.clone(),
        requester: requester("two.example"),
        earliest_events: many("$none"),
        latest_events: many(&last),
        limit: Some(u32::MAX),
        min_depth: 0,
        omit_event_ids: false,
    });
    assert_eq!(answer.await.unwrap().into_inner().event_ids.len(), 20);
    let event_ids = many("$none");
    let answer =
        history.batch_get_events(pb::BatchGetEventsRequest { room_id: room_id.clone(), event_ids });
    assert_eq!(answer.await.unwrap().into_inner().missing_event_ids.len(), 1_000);

    // Pages of any size are together all events, in order, each once.
    for page_size in [1, 7, 100, u32::MAX] {
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let room_id = room_id.clone();
            let request =
                pb::ListEventsRequest { room_id, page_size, page_token, max_append_number: 0 };
            let page = history.list_events(request).await.unwrap().into_inner();
            assert!(page.events.len() <= usize::try_from(page_size.min(1_000)).unwrap());
            listed.extend(page.events.into_iter().map(|it| it.event_id));
            if page.next_page_token.is_empty() {
                break;
            }
            page_token = page.next_page_token;
        }
        let expected: Vec<String> = events.iter().map(|it| it.event_id.clone()).collect();
        assert_eq!(listed, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_stopping() {
    let Stage { clients, _service: service, _dir, .. } = stage().await;
    let mut clients = clients;
    for name in ["", "HistoryService", "IngestService", "KeyService"] {
        assert_eq!(clients.health(name).await, ServingStatus::Serving, "{name}");
    }
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("everything is on disk"), "{log}");
}
