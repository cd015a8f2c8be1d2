//! The RPC `AppendEvents` over a real socket: every reason for a refusal. A refusal names its reason and
//! changes nothing, and the stream continues.

use backscroll::{
    pdu::RoomVersion,
    proto::v1::{self as pb, RefusalReason as Reason, append_events_response::Outcome},
};
use backscroll_testkit::{Event, Room};
use serde_json::{Value, json};

use crate::support::{
    clients::{Clients, request},
    process::Process,
    rooms,
};

const ALICE: &str = "@alice:one.example";

/// A running service with a room of a few events.
struct Stage {
    room: Room,
    create: Event,
    message: Event,
    clients: Clients,
    _service: Process,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
        let mut clients = Clients::connect(&service).await;
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let message = room.message(ALICE, "hello").after([&create]).finish();
        let events = [&create, &message].map(|it| request(&room, &it.pdu));
        let answers = clients.append(events.to_vec()).await.unwrap();
        assert!(answers.iter().all(is_new), "{answers:?}");
        Self { room, create, message, clients, _service: service, _dir: dir }
    }

    fn next(&self) -> Value {
        Value::Object(self.room.message(ALICE, "the next").after([&self.message]).members())
    }
}

fn appended(answer: &pb::AppendEventsResponse) -> Option<pb::Appended> {
    match &answer.outcome {
        Some(Outcome::Appended(appended)) => Some(appended.clone()),
        _ => None,
    }
}

fn is_new(answer: &pb::AppendEventsResponse) -> bool {
    appended(answer).is_some_and(|it| !it.duplicate && !it.redacted && !it.purged)
}

/// What is sent, why it is refused, and what the refusal names.
type Row = (pb::AppendEventsRequest, Reason, &'static str);

fn rows(stage: &Stage) -> Vec<Row> {
    let room = &stage.room;
    let good = || request(room, &stage.next().to_string());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut pdu = stage.next();
        change(&mut pdu);
        request(room, &pdu.to_string())
    };
    let (other, other_create) = Room::named(RoomVersion::V10, ALICE, "other");
    let unheard = |version: &str| pb::AppendEventsRequest {
        room_version: version.to_owned(),
        ..request(&other, &other_create.pdu)
    };
    let large = "x".repeat(65_536);
    vec![
        (
            pb::AppendEventsRequest { room_id: "nowhere".into(), ..good() },
            Reason::RoomIdInvalid,
            "room id",
        ),
        (unheard(""), Reason::RoomVersionMissing, "room version"),
        (unheard("99"), Reason::RoomVersionUnknown, "`99`"),
        (
            pb::AppendEventsRequest { room_version: "9".into(), ..good() },
            Reason::RoomVersionMismatch,
            "version 10",
        ),
        (request(room, "no event"), Reason::NotJson, "JSON"),
        (request(room, ""), Reason::NotJson, "JSON"),
        (changed(&|it| it["content"] = json!({"share": 0.5})), Reason::BadJson, ""),
        (changed(&|it| it["sender"] = json!(7)), Reason::FormatInvalid, "sender"),
        (changed(&|it| it["depth"] = Value::Null), Reason::FormatInvalid, "depth"),
        (changed(&|it| it["prev_events"] = json!("$x")), Reason::FormatInvalid, "prev_events"),
        (changed(&|it| it["content"] = json!({"body": large})), Reason::TooLarge, "65536"),
        (request(room, &other_create.pdu), Reason::RoomMismatch, "!other:one.example"),
        (
            pb::AppendEventsRequest { event_id: "$another".into(), ..good() },
            Reason::EventIdMismatch,
            "$another",
        ),
        (
            pb::AppendEventsRequest {
                verdict: pb::Verdict::Rejected.into(),
                ..request(room, &stage.message.pdu)
            },
            Reason::Conflict,
            "verdict",
        ),
        (
            pb::AppendEventsRequest { state_after: vec![stage.message.event_id.clone()], ..good() },
            Reason::StateInvalid,
            "state event",
        ),
        (
            pb::AppendEventsRequest {
                state_after: vec![stage.create.event_id.clone(); 2],
                ..good()
            },
            Reason::StateInvalid,
            "second",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_reason_and_changes_nothing() {
    let mut stage = Stage::new().await;
    let room_id = stage.room.room_id.clone();
    let before = stage.clients.room(&room_id).await.unwrap();
    for (bad, reason, names) in rows(&stage) {
        let good = request(&stage.room, &stage.message.pdu);
        let answers = stage.clients.append(vec![bad, good]).await.unwrap();
        let Some(Outcome::Refusal(refusal)) = &answers[0].outcome else {
            panic!("{reason:?}: {answers:?}");
        };
        assert_eq!(refusal.reason(), reason, "{}", refusal.message);
        assert!(refusal.message.contains(names), "{reason:?}: {}", refusal.message);
        assert!(!refusal.message.contains("hello"), "{}", refusal.message);
        assert!(appended(&answers[1]).is_some_and(|it| it.duplicate), "{reason:?}: {answers:?}");
        assert_eq!(stage.clients.room(&room_id).await.unwrap(), before, "{reason:?}");
    }
    let rows = rows(&stage);
    for reason in (1..100).filter_map(|it| Reason::try_from(it).ok()) {
        assert!(rows.iter().any(|it| it.1 == reason), "{reason:?} has no row");
    }
    assert!(stage.clients.room("!other:one.example").await.is_err(), "no room was created");
}

/// The homeserver checks signatures: no event is refused because of its signatures, whatever keys
/// gateways have stored.
#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_decide_about_no_event() {
    let mut stage = Stage::new().await;
    let answers: Value = serde_json::from_str(&rooms::keys().server).unwrap();
    for answer in answers.as_object().unwrap().values() {
        let answer = answer.to_string().into();
        let request = pb::PutServerKeysRequest { answer, fetched_ts: 0 };
        stage.clients.keys.put_server_keys(request).await.unwrap();
    }
    let bundled = rooms::bundled();
    for name in ["linear-v1", "linear-v12"] {
        let recorded = bundled.iter().find(|it| it.name == name).unwrap();
        let requests = recorded.lines.iter().map(|line| {
            let mut forged: Value = serde_json::from_str(line.pdu.get()).unwrap();
            for of_server in forged["signatures"].as_object_mut().unwrap().values_mut() {
                for signature in of_server.as_object_mut().unwrap().values_mut() {
                    *signature = json!("garbage");
                }
            }
            pb::AppendEventsRequest {
                room_id: recorded.header.room_id.clone(),
                room_version: recorded.header.room_version.clone(),
                event_id: line.event_id.clone(),
                pdu: forged.to_string().into(),
                state_after: line.state_after.clone(),
                ..pb::AppendEventsRequest::default()
            }
        });
        let answers = stage.clients.append(requests.collect()).await.unwrap();
        assert!(answers.iter().all(is_new), "{name}: {answers:?}");
    }
}

/// A thousand events in flight, every second one refused: one response each, in the order of the
/// requests.
#[tokio::test(flavor = "multi_thread")]
async fn responses_have_the_order_of_the_requests() {
    let mut stage = Stage::new().await;
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    let mut last = Event { ..stage.message };
    for number in 0..500 {
        let text = format!("message {number}");
        let event = stage.room.message(ALICE, &text).after([&last]).finish();
        requests.push(request(&stage.room, &event.pdu));
        requests.push(request(&stage.room, "no event"));
        expected.extend([event.event_id.clone(), String::new()]);
        last = event;
    }
    let answers = stage.clients.append(requests.clone()).await.unwrap();
    let ids: Vec<String> = answers.iter().map(|it| it.event_id.clone()).collect();
    assert_eq!(ids, expected);
    assert!(answers.iter().step_by(2).all(is_new));
    // Sent again, every accepted event is a duplicate.
    let answers = stage.clients.append(requests).await.unwrap();
    let duplicates = answers.iter().step_by(2).map(appended);
    assert!(duplicates.into_iter().all(|it| it.is_some_and(|it| it.duplicate)));
}
