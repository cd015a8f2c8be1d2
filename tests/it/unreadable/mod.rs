//! Unreadable events: events that a homeserver holds and that break the format of their room version.
//! Each is stored in its place in the graph and never served. The events before and after it are served
//! in full.

mod rows;
mod stage;

use backscroll::{
    ingest::{self, NewEvent, Outcome, Verdict},
    pdu::{RoomVersion, id_of_unreadable},
    query::{Access, Backfill, ExplainAccess, Explanation, RoomEvent},
    visibility::Form,
};
use backscroll_testkit::{Draft, Event, Federation, FederationRequest, Room};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use self::{
    rows::{EVERYWHERE, Row, rows, without},
    stage::{Stage, append, asker, backfill, missing_events},
};
use crate::support::{
    answers::{self, Question},
    events::{DraftExt as _, RoomExt as _},
    faults,
    memory::Memory,
    model::HOME,
    rooms,
    services::Services,
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
const TWO: &str = "two.example";
const VERSIONS: [RoomVersion; 6] = [
    RoomVersion::V1,
    RoomVersion::V5,
    RoomVersion::V6,
    RoomVersion::V10,
    RoomVersion::V11,
    RoomVersion::V12,
];

#[test]
fn events_before_and_after_an_unreadable_event_are_served_in_full() {
    for version in VERSIONS {
        for row in rows(version) {
            let at = format!("version {version}, {}", row.what);
            let stage = Stage::new(version, row, Verdict::Accepted);
            let Stage { memory, room, unreadable, after, .. } = &stage;
            let last = after.last().unwrap();
            let served = backfill(room, last, TWO).ask(&memory.cx).unwrap();
            let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
            assert_eq!(ids, stage.served(), "{at}");
            assert!(served.events.iter().all(|it| it.1 == Form::Full), "{at}");
            // The depth that the unreadable event claims ends no walk.
            let served = missing_events(room, last, TWO).ask(&memory.cx).unwrap();
            let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
            let expected: Vec<&str> = stage
                .served()
                .into_iter()
                .rev()
                .filter(|it| *it != last.event_id)
                .skip(2)
                .collect();
            assert_eq!(ids, expected, "{at}");

            let state = |id: &str| answers::state(&memory.cx, &room.room_id, id);
            let before = &stage.before.last().unwrap().event_id;
            assert_eq!(state(&unreadable.event_id), state(before), "{at}");
            let explained = explain(memory, room, unreadable);
            assert_eq!(explained.access, Access::NotServed, "{at}");
            assert_eq!(answers::summary(&memory.cx, &room.room_id).counts[4], 1, "{at}");
            assert_eq!(faults::of(&memory.cx.store), [], "{at}");
        }
    }
}

/// Explains what the server `TWO` gets of an event.
fn explain(memory: &Memory, room: &Room, event: &Event) -> Explanation {
    let question = ExplainAccess {
        room_id: room.room_id.clone(),
        event_id: event.event_id.clone(),
        origin: TWO.to_owned(),
        destination: HOME.to_owned(),
    };
    answers::ask(&memory.cx, &question).unwrap()
}

/// An unreadable event that is appended again is a duplicate, also with other white space, as in a
/// room file.
#[test]
fn an_unreadable_event_appended_again_is_a_duplicate() {
    for row in rows(RoomVersion::V10) {
        let stage = Stage::new(RoomVersion::V10, row, Verdict::Accepted);
        let Stage { memory, room, unreadable, .. } = &stage;
        let before = answers::events(&memory.cx, &room.room_id);
        let in_lines = Event { pdu: unreadable.pdu.replacen(" ,", "\n,", 1), ..unreadable.clone() };
        for again in [unreadable, &in_lines] {
            let outcome = ingest::append_unflushed(&memory.cx, &room.accepted(again)).unwrap();
            let Outcome::Appended { duplicate: true, unreadable: Some(_), .. } = outcome else {
                panic!("{}: {outcome:?}", row.what);
            };
        }
        let other =
            Event { pdu: unreadable.pdu.replacen('{', "{\"other\":1,", 1), ..unreadable.clone() };
        let outcome = ingest::append_unflushed(&memory.cx, &room.accepted(&other)).unwrap();
        assert!(matches!(outcome, Outcome::Refused { .. }), "{}: {outcome:?}", row.what);
        let after = answers::events(&memory.cx, &room.room_id);
        let bytes =
            |it: &[RoomEvent]| -> Vec<Vec<u8>> { it.iter().map(|it| it.pdu.to_vec()).collect() };
        assert_eq!(bytes(&before), bytes(&after));
    }
}

/// The homeserver's verdict holds for unreadable events too.
#[test]
fn the_verdict_on_an_unreadable_event_holds() {
    for verdict in [Verdict::Rejected, Verdict::SoftFailed] {
        let stage = Stage::new(RoomVersion::V10, EVERYWHERE[0], verdict);
        let Stage { memory, room, after, .. } = &stage;
        let served = backfill(room, after.last().unwrap(), TWO).ask(&memory.cx).unwrap();
        let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(ids, stage.served(), "{verdict:?}");
        assert_eq!(faults::of(&memory.cx.store), [], "{verdict:?}");
    }
    // First an outlier, then part of the graph; and a forward extremity.
    let (memory, room, before) = Stage::begin(RoomVersion::V10);
    let unreadable = room
        .message(ALICE, "odd")
        .after(before.last())
        .with("depth", json!(-1))
        .unreadable(|it| it);
    append(&memory, &NewEvent { outlier: true, ..room.accepted(&unreadable) });
    append(&memory, &room.accepted(&unreadable));
    let summary = answers::summary(&memory.cx, &room.room_id);
    assert_eq!(summary.forward_extremities, [unreadable.event_id.clone()].into());
    assert_eq!(summary.counts, [6, 0, 0, 0, 1]);
    let served = backfill(&room, &unreadable, TWO).ask(&memory.cx).unwrap();
    assert_eq!(served.events.len(), before.len());
    assert_eq!(faults::of(&memory.cx.store), []);
}

/// In rooms of versions 1 to 5 a depth above 2^53 - 1 is allowed, but some servers cannot read it.
#[test]
fn too_great_a_depth_is_walked_through_and_left_out() {
    for version in VERSIONS.into_iter().filter(|it| *it <= RoomVersion::V5) {
        for (depth, is_served) in
            [(9_007_199_254_740_991_i64, true), (9_007_199_254_740_992, false)]
        {
            let (memory, room, before) = Stage::begin(version);
            let deep = room.message(ALICE, "deep").after(before.last()).with("depth", json!(depth));
            let deep = deep.finish();
            let next = room.message(BOB, "next").after([&deep]).with("depth", json!(7)).finish();
            append(&memory, &room.accepted(&deep));
            append(&memory, &room.accepted(&next));
            for question in [backfill(&room, &next, TWO), missing_events(&room, &next, TWO)] {
                let served = question.ask(&memory.cx).unwrap();
                let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
                assert_eq!(ids.contains(&deep.event_id.as_str()), is_served, "{version} {depth}");
                assert!(ids.contains(&before[4].event_id.as_str()), "{version} {depth}");
            }
            let explained = explain(&memory, &room, &deep);
            assert_eq!(explained.access != Access::NotServed, is_served, "{explained:?}");
        }
    }
}

#[test]
fn bytes_that_cannot_be_an_event_are_refused() {
    let (memory, room, before) = Stage::begin(RoomVersion::V10);
    let draft = || room.message(ALICE, "odd").after(before.last()).with("depth", json!(-1));
    let good = draft().unreadable(|it| it);
    let in_other = draft().with("room_id", json!("!other:one.example")).unreadable(|it| it);
    let large = draft().unreadable(|it| it.replacen("odd", &"x".repeat(393_216), 1));
    let of = |event_id: &str, pdu: &str| Event {
        event_id: event_id.to_owned(),
        pdu: pdu.to_owned(),
        ..good.clone()
    };
    for (event, names) in [
        (of("$a", "no JSON"), "not JSON"),
        (of("$a", ""), "not JSON"),
        (of("$a", "[]"), "not an object"),
        (of("$a", "7"), "not an object"),
        (of("$a", &format!("{} trailing", good.pdu)), "not JSON"),
        (of("", &good.pdu), "event id"),
        (of("no id", "{}"), "event_id is not an event id"),
        (of("$another", &good.pdu), "$another"),
        (in_other, "!other:one.example"),
        (large, "393216"),
    ] {
        let outcome = ingest::append_unflushed(&memory.cx, &room.accepted(&event)).unwrap();
        let Outcome::Refused { refusal, .. } = outcome else { panic!("{names}: {outcome:?}") };
        assert!(refusal.to_string().contains(names), "{names}: {refusal}");
    }
    assert_eq!(answers::summary(&memory.cx, &room.room_id).counts, [5, 0, 0, 0, 0]);
}

/// The state of a room with an unreadable create event was never known: no server has access.
#[test]
fn an_unreadable_create_event_gives_no_access() {
    for version in VERSIONS {
        let memory = Memory::new();
        let (room, _) = Room::new(version, ALICE);
        let draft = room.state(ALICE, "m.room.create", "", json!({"creator": ALICE}));
        let create = draft.with("depth", json!(-1)).unreadable(|it| match version {
            RoomVersion::V12 => without(serde_json::from_str(&it).unwrap(), "room_id"),
            _ => it,
        });
        // From room version 12 on, the id of the create event is the id of the room.
        let room_id = match version {
            RoomVersion::V12 => create.event_id.replacen('$', "!", 1),
            _ => room.room_id.clone(),
        };
        let mut events = vec![create];
        for draft in [room.member(ALICE, ALICE, "join"), room.member(BOB, BOB, "join")] {
            let draft = draft.with("room_id", json!(room_id)).after(events.last());
            events.push(draft.finish());
        }
        for event in &events {
            append(&memory, &NewEvent { room_id: &room_id, ..room.accepted(event) });
        }
        let question = Question::Backfill(Backfill {
            room_id: room_id.clone(),
            asker: asker(TWO),
            event_ids: vec![events[2].event_id.clone()],
            limit: Some(10),
        });
        assert!(question.ask(&memory.cx).unwrap_err().contains("not known"), "{version}");
        assert_eq!(faults::of(&memory.cx.store), [], "{version}");
    }
}

/// A given state may contain an unreadable event. It stands for the content that grants least.
#[test]
fn unreadable_events_of_a_given_state_grant_nothing() {
    let unreadable = |draft: Draft<'_>| draft.with("depth", json!(-1)).unreadable(|it| it);
    let acl = |room: &Room| {
        unreadable(room.state(ALICE, "m.room.server_acl", "", json!({"allow": ["*"]})))
    };
    let visibility = |room: &Room| {
        let content = json!({"history_visibility": "shared"});
        unreadable(room.state(ALICE, "m.room.history_visibility", "", content))
    };
    let topic = |room: &Room| {
        unreadable(room.state(ALICE, "m.room.topic", "", json!({"topic": "a topic"})))
    };
    let member = |room: &Room| unreadable(room.member(BOB, BOB, "join"));
    let nothing = |room: &Room| {
        room.state(ALICE, "m.room.topic", "", json!({}))
            .with("state_key", json!(7))
            .unreadable(|it| it)
    };
    type Make<'a> = &'a dyn Fn(&Room) -> Event;
    let table: [(Make<'_>, Option<Form>); 5] = [
        (&acl, None),
        (&visibility, Some(Form::Redacted)),
        (&topic, Some(Form::Full)),
        (&member, None),
        (&nothing, Some(Form::Full)),
    ];
    for (make, expected) in table {
        let (memory, room, events) = Stage::begin(RoomVersion::V10);
        let unreadable = make(&room);
        append(&memory, &NewEvent { outlier: true, ..room.accepted(&unreadable) });
        // The state before carol joins: no user of her server is joined.
        let replaced: Value = serde_json::from_str(&unreadable.pdu).unwrap();
        let is_replaced = |it: &&Event| {
            let held: Value = serde_json::from_str(&it.pdu).unwrap();
            held["type"] == replaced["type"] && held["state_key"] == replaced["state_key"]
        };
        let kept = events[..4].iter().filter(|it| !is_replaced(it));
        let visible = events[2].event_id.clone();
        let mut given: Vec<String> = kept.map(|it| it.event_id.clone()).collect();
        given.retain(|it| *it != visible);
        given.push(unreadable.event_id.clone());
        let tip = room.message(ALICE, "tip").after_id("$not-held").finish();
        append(&memory, &NewEvent { state_after: &given, ..room.accepted(&tip) });
        // A merge leaves one forward extremity.
        let end = room.message(ALICE, "end").after([&tip]).finish();
        append(&memory, &room.accepted(&end));
        let carol = "@carol:three.example";
        let join = room.member(carol, carol, "join").after([&end, &events[4]]).finish();
        let given: Vec<String> = given.into_iter().chain([join.event_id.clone()]).collect();
        append(&memory, &NewEvent { state_after: &given, ..room.accepted(&join) });
        let asks = if expected == Some(Form::Redacted) { "three.example" } else { TWO };
        let answer = backfill(&room, &end, asks).ask(&memory.cx).ok();
        let form =
            answer.and_then(|it| it.events.iter().find(|it| it.0 == end.event_id).map(|it| it.1));
        assert_eq!(form, expected, "{}", unreadable.pdu);
        assert_eq!(faults::of(&memory.cx.store), [], "{}", unreadable.pdu);
    }
}

/// The same through both services on real sockets: 200, with all events before and after.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_serves_the_events_around_an_unreadable_event() {
    let dir = tempfile::tempdir().unwrap();
    let keys = rooms::keys();
    let federation = Federation::from_json(&keys.signing);
    let services = Services::start(dir.path(), "hs1.example:9101", &keys.server).await;
    let (alice, bob) = ("@alice:hs1.example:9101", "@bob:hs2.example:9102");
    for version in VERSIONS {
        for (number, Row { what, change }) in rows(version).into_iter().enumerate() {
            let (room, create) = Room::named(version, alice, &format!("room{version}-{number}"));
            let mut served = vec![create];
            let mut unreadable = None;
            for draft in [
                room.member(alice, alice, "join"),
                room.member(bob, bob, "join"),
                room.message(bob, "before"),
                room.message(alice, "odd"),
                room.message(bob, "after"),
            ] {
                if served.len() < 4 || unreadable.is_some() {
                    let before = unreadable.as_ref().or(served.last());
                    served.push(draft.after(before).finish());
                } else {
                    let change =
                        |text: String| change(version, serde_json::from_str(&text).unwrap());
                    unreadable = Some(draft.after(served.last()).unreadable(change));
                }
            }
            let unreadable = unreadable.unwrap();
            for event in served[..4].iter().chain([&unreadable, &served[4]]) {
                let outcome =
                    ingest::append_unflushed(&services.cx, &room.accepted(event)).unwrap();
                assert!(matches!(outcome, Outcome::Appended { .. }), "{what}: {outcome:?}");
            }
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let (room_id, last) = (encode(&room.room_id), encode(&served[4].event_id));
            let uri = format!("/_matrix/federation/v1/backfill/{room_id}?v={last}&limit=100");
            let (origin, destination) = ("hs2.example:9102", "hs1.example:9101");
            let question =
                FederationRequest { origin, destination, method: "GET", uri: &uri, content: None };
            let answer = federation.send(services.gateway, question).await;
            assert_eq!(answer.status, 200, "version {version}, {what}");
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            let pdus: Vec<String> =
                body["pdus"].as_array().unwrap().iter().map(ToString::to_string).collect();
            let expected: Vec<String> = served.iter().rev().map(|it| it.pdu.clone()).collect();
            assert_eq!(pdus, expected, "version {version}, {what}");
        }
    }
    services.stop().await;
}

/// Any JSON object with an id is stored. It costs no more than another event.
#[test]
fn any_json_object_is_stored() {
    let many = |each: &dyn Fn(usize) -> String, count: usize| -> String {
        (0..count).map(each).collect::<Vec<_>>().join(",")
    };
    let objects = [
        "{}".to_owned(),
        r#"{"prev_events":null}"#.to_owned(),
        r#"{"prev_events":{"$a":1}}"#.to_owned(),
        r#"{"prev_events":[[],[[]],{},"","$",null,"\ud800","$\ud800"]}"#.to_owned(),
        r#"{"\ud800":1,"type":"\ud800","state_key":"\udfff","unsigned":"\ud800"}"#.to_owned(),
        r#"{"prev_events":["$itself"],"event_id":7}"#.to_owned(),
        r#"{"type":"m.room.create","state_key":"","prev_events":[]}"#.to_owned(),
        r#"{"type":"m.room.redaction","redacts":"$itself"}"#.to_owned(),
        format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        format!(r#"{{"prev_events":[{}]}}"#, many(&|it| format!(r#""${it}""#), 30_000)),
        format!(r#"{{"prev_events":[{}]}}"#, many(&|it| format!("{it}"), 50_000)),
        format!("{{{}}}", many(&|it| format!(r#""{it}":1e999"#), 20_000)),
        format!(r#"{{"a":"{}"}}"#, "x".repeat(393_208)),
    ];
    for version in VERSIONS {
        let (memory, room, before) = Stage::begin(version);
        for (number, pdu) in objects.iter().enumerate() {
            let event_id =
                if number == 5 { "$itself".to_owned() } else { format!("$unreadable{number}") };
            let unreadable = Event { event_id, pdu: pdu.clone(), depth: 0, unreadable: true };
            let own_id = id_of_unreadable(pdu.as_bytes(), version).map(|it| it.as_str().to_owned());
            let unreadable =
                Event { event_id: own_id.unwrap_or(unreadable.event_id), ..unreadable };
            let soft_failed = Verdict::SoftFailed;
            let event = NewEvent { verdict: soft_failed, ..room.accepted(&unreadable) };
            // From room version 12 on, a create event belongs to a room of its own.
            if version == RoomVersion::V12 && number == 6 {
                let outcome = ingest::append_unflushed(&memory.cx, &event).unwrap();
                assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
                continue;
            }
            append(&memory, &event);
        }
        assert_eq!(faults::of(&memory.cx.store), [], "version {version}");
        let backward = answers::room(&memory.cx, &room.room_id).unwrap().backward_extremities;
        assert!(backward.len() < 200, "version {version}: {}", backward.len());
        let served = backfill(&room, before.last().unwrap(), TWO).ask(&memory.cx).unwrap();
        assert!(served.events.iter().all(|it| it.1 == Form::Full), "version {version}");
    }
}
