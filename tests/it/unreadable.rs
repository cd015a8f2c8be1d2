//! Events that a homeserver holds and that break the format of their room version: each is kept in
//! its place, never served, and silences nothing. What stands before and after it is answered whole.

use backscroll::{
    ingest::{self, NewEvent, Outcome, Verdict},
    pdu::{RoomVersion, id_of_unreadable},
    query::{Access, Asker, Backfill, ExplainAccess, Explanation, GetMissingEvents, RoomEvent},
    visibility::Form,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::{
    answers::{self, Question},
    builder::{Draft, Event, Room},
    faults,
    federation::{Federation, Question as FederationQuestion},
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

/// What is odd about an event, and how its text is made so.
type Row = (&'static str, fn(RoomVersion, Value) -> String);

fn set(mut pdu: Value, member: &str, value: Value) -> String {
    pdu[member] = value;
    pdu.to_string()
}

fn without(mut pdu: Value, member: &str) -> String {
    pdu.as_object_mut().unwrap().remove(member);
    pdu.to_string()
}

/// Puts JSON in place of a member's value that no [`Value`] holds.
fn raw(pdu: Value, member: &str, json: &str) -> String {
    set(pdu, member, json!("here")).replace("\"here\"", json)
}

/// With more predecessors, in the form of the room version.
fn after_too(mut pdu: Value, more: Value) -> String {
    pdu["prev_events"].as_array_mut().unwrap().push(more);
    pdu.to_string()
}

/// Odd in every room version.
const EVERYWHERE: [Row; 27] = [
    ("a negative depth", |_, it| set(it, "depth", json!(-1))),
    ("a depth beyond 64 bits", |_, it| raw(it, "depth", "9223372036854775808")),
    ("a depth that is a text", |_, it| set(it, "depth", json!("7"))),
    ("a depth that is a fraction", |_, it| raw(it, "depth", "7.5")),
    ("no depth", |_, it| without(it, "depth")),
    ("content that is a text", |_, it| set(it, "content", json!("hello"))),
    ("content that is a list", |_, it| set(it, "content", json!([]))),
    ("content that is null", |_, it| set(it, "content", Value::Null)),
    ("no content", |_, it| without(it, "content")),
    ("a predecessor that is no id", |_, it| after_too(it, json!("not an id"))),
    ("a predecessor that is a number", |_, it| after_too(it, json!(7))),
    ("a predecessor that is a list of a number", |_, it| after_too(it, json!([7, {}]))),
    ("a state key that is a number", |_, it| set(it, "state_key", json!(7))),
    ("a state key that is null", |_, it| set(it, "state_key", Value::Null)),
    ("no type", |_, it| without(it, "type")),
    ("a type that is a number", |_, it| set(it, "type", json!(7))),
    ("a type of 300 characters", |_, it| set(it, "type", json!("x".repeat(300)))),
    ("a sender that is no user", |_, it| set(it, "sender", json!("alice"))),
    ("no sender", |_, it| without(it, "sender")),
    ("no room id", |_, it| without(it, "room_id")),
    ("no hashes", |_, it| without(it, "hashes")),
    ("signatures that are a list", |_, it| set(it, "signatures", json!([]))),
    ("authorised by what is no list", |_, it| set(it, "auth_events", json!("$x"))),
    ("authorised by what is no id", |_, it| set(it, "auth_events", json!([["x", {}], "x"]))),
    ("no timestamp", |_, it| without(it, "origin_server_ts")),
    ("more than 64 KiB", |_, it| set(it, "content", json!({"body": "x".repeat(70_000)}))),
    ("a number that overflows", |_, it| raw(it, "content", "{\"a\": 1e400}")),
];

/// Odd from room version 6 on, which holds JSON to its canonical form.
const STRICT: [Row; 6] = [
    ("a depth beyond 2^53 - 1", |_, it| raw(it, "depth", "9007199254740992")),
    ("a fraction", |_, it| raw(it, "content", "{\"a\": 0.5}")),
    ("a number beyond 2^53 - 1", |_, it| raw(it, "content", "{\"a\": 9007199254740992}")),
    ("an exponent", |_, it| raw(it, "content", "{\"a\": 1e3}")),
    ("a member that stands twice", |_, it| raw(it, "content", "{\"a\": 1, \"a\": 2}")),
    ("half a surrogate pair", |_, it| raw(it, "content", "{\"a\": \"\\ud800\"}")),
];

fn rows(version: RoomVersion) -> Vec<Row> {
    let deep: Row = ("nested 300 levels deep", |_, it| {
        raw(it, "content", &format!("{}1{}", "{\"a\":".repeat(300), "}".repeat(300)))
    });
    let strict = STRICT.into_iter().filter(|_| version >= RoomVersion::V6);
    EVERYWHERE.into_iter().chain([deep]).chain(strict).collect()
}

/// A room of two servers, with a few messages and one odd event in the middle.
struct Stage {
    memory: Memory,
    room: Room,
    before: Vec<Event>,
    odd: Event,
    after: Vec<Event>,
}

impl Stage {
    fn begin(version: RoomVersion) -> (Memory, Room, Vec<Event>) {
        let (room, create) = Room::new(version, ALICE);
        let mut events = vec![create];
        for draft in [
            room.member(ALICE, ALICE, "join"),
            room.state(
                ALICE,
                "m.room.history_visibility",
                "",
                json!({"history_visibility": "joined"}),
            ),
            room.member(BOB, BOB, "join"),
            room.message(BOB, "before"),
        ] {
            let event = draft.after(events.last()).finish();
            events.push(event);
        }
        let memory = Memory::new();
        for event in &events {
            append(&memory, &room.accepted(event));
        }
        (memory, room, events)
    }

    fn new(version: RoomVersion, (what, change): Row, verdict: Verdict) -> Self {
        let (memory, room, before) = Self::begin(version);
        let draft = room.message(ALICE, "odd").after(before.last());
        let change = |text: String| change(version, serde_json::from_str(&text).unwrap());
        let odd = draft.odd(|text| change(text).replacen(',', " ,", 1));
        let outcome =
            ingest::append_unflushed(&memory.cx, &NewEvent { verdict, ..room.accepted(&odd) });
        let outcome = outcome.unwrap();
        let Outcome::Appended {
            duplicate: false, unreadable: Some(_), state_unknown: false, ..
        } = outcome
        else {
            panic!("version {version}, {what}: {outcome:?}");
        };
        let mut after = Vec::new();
        for body in ["after", "after that"] {
            let event = room.message(BOB, body).after([after.last().unwrap_or(&odd)]).finish();
            append(&memory, &room.accepted(&event));
            after.push(event);
        }
        Self { memory, room, before, odd, after }
    }

    /// What is served, newest first.
    fn served(&self) -> Vec<&str> {
        let all = self.before.iter().chain(&self.after).rev();
        all.map(|it| it.event_id.as_str()).collect()
    }
}

fn append(memory: &Memory, event: &NewEvent<'_>) {
    let outcome = ingest::append_unflushed(&memory.cx, event).unwrap();
    assert!(matches!(outcome, Outcome::Appended { duplicate: false, .. }), "{outcome:?}");
}

fn asker(origin: &str) -> Asker {
    Asker::Server { origin: origin.to_owned(), destination: HOME.to_owned() }
}

fn backfill(room: &Room, from: &Event, origin: &str) -> Question {
    Question::Backfill(Backfill {
        room_id: room.room_id.clone(),
        asker: asker(origin),
        event_ids: vec![from.event_id.clone()],
        limit: Some(100),
    })
}

fn missing_events(room: &Room, from: &Event, origin: &str) -> Question {
    Question::MissingEvents(GetMissingEvents {
        room_id: room.room_id.clone(),
        asker: asker(origin),
        earliest_events: vec![],
        latest_events: vec![from.event_id.clone()],
        limit: Some(20),
        min_depth: 3,
    })
}

#[test]
fn everything_before_and_after_an_odd_event_is_served_whole() {
    for version in VERSIONS {
        for row in rows(version) {
            let at = format!("version {version}, {}", row.0);
            let stage = Stage::new(version, row, Verdict::Accepted);
            let Stage { memory, room, odd, after, .. } = &stage;
            let last = after.last().unwrap();
            let served = backfill(room, last, TWO).ask(&memory.cx).unwrap();
            let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
            assert_eq!(ids, stage.served(), "{at}");
            assert!(served.events.iter().all(|it| it.1 == Form::Full), "{at}");
            // No walk ends at what it claims of its depth.
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
            assert_eq!(state(&odd.event_id), state(before), "{at}");
            let explained = explain(memory, room, odd);
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

/// It is the same event however often it comes, also in one line, as a room's file has it.
#[test]
fn an_odd_event_comes_again_and_nothing_changes() {
    for row in rows(RoomVersion::V10) {
        let stage = Stage::new(RoomVersion::V10, row, Verdict::Accepted);
        let Stage { memory, room, odd, .. } = &stage;
        let before = answers::events(&memory.cx, &room.room_id);
        let in_lines = Event { pdu: odd.pdu.replacen(" ,", "\n,", 1), ..odd.clone() };
        for again in [odd, &in_lines] {
            let outcome = ingest::append_unflushed(&memory.cx, &room.accepted(again)).unwrap();
            let Outcome::Appended { duplicate: true, unreadable: Some(_), .. } = outcome else {
                panic!("{}: {outcome:?}", row.0);
            };
        }
        let other = Event { pdu: odd.pdu.replacen('{', "{\"other\":1,", 1), ..odd.clone() };
        let outcome = ingest::append_unflushed(&memory.cx, &room.accepted(&other)).unwrap();
        assert!(matches!(outcome, Outcome::Refused { .. }), "{}: {outcome:?}", row.0);
        let after = answers::events(&memory.cx, &room.room_id);
        let bytes =
            |it: &[RoomEvent]| -> Vec<Vec<u8>> { it.iter().map(|it| it.pdu.to_vec()).collect() };
        assert_eq!(bytes(&before), bytes(&after));
    }
}

/// What the homeserver decided holds of odd events too.
#[test]
fn a_verdict_on_an_odd_event_stands() {
    for verdict in [Verdict::Rejected, Verdict::SoftFailed] {
        let stage = Stage::new(RoomVersion::V10, EVERYWHERE[0], verdict);
        let Stage { memory, room, after, .. } = &stage;
        let served = backfill(room, after.last().unwrap(), TWO).ask(&memory.cx).unwrap();
        let ids: Vec<&str> = served.events.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(ids, stage.served(), "{verdict:?}");
        assert_eq!(faults::of(&memory.cx.store), [], "{verdict:?}");
    }
    // An outlier first, then placed; and an extremity that nothing follows.
    let (memory, room, before) = Stage::begin(RoomVersion::V10);
    let odd = room.message(ALICE, "odd").after(before.last()).with("depth", json!(-1)).odd(|it| it);
    append(&memory, &NewEvent { outlier: true, ..room.accepted(&odd) });
    append(&memory, &room.accepted(&odd));
    let summary = answers::summary(&memory.cx, &room.room_id);
    assert_eq!(summary.forward_extremities, [odd.event_id.clone()].into());
    assert_eq!(summary.counts, [6, 0, 0, 0, 1]);
    let served = backfill(&room, &odd, TWO).ask(&memory.cx).unwrap();
    assert_eq!(served.events.len(), before.len());
    assert_eq!(faults::of(&memory.cx.store), []);
}

/// In rooms of versions 1 to 5 a depth beyond 2^53 - 1 can be read, but not by all who would get it.
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
fn what_no_event_can_be_made_of_is_refused() {
    let (memory, room, before) = Stage::begin(RoomVersion::V10);
    let draft = || room.message(ALICE, "odd").after(before.last()).with("depth", json!(-1));
    let good = draft().odd(|it| it);
    let in_other = draft().with("room_id", json!("!other:one.example")).odd(|it| it);
    let large = draft().odd(|it| it.replacen("odd", &"x".repeat(393_216), 1));
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
        (of("no id", "{}"), "event_id is no event id"),
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

/// A room whose first event cannot be read was never known: nobody may ask.
#[test]
fn a_create_event_that_cannot_be_read_opens_no_room() {
    for version in VERSIONS {
        let memory = Memory::new();
        let (room, _) = Room::new(version, ALICE);
        let draft = room.state(ALICE, "m.room.create", "", json!({"creator": ALICE}));
        let create = draft.with("depth", json!(-1)).odd(|it| match version {
            RoomVersion::V12 => without(serde_json::from_str(&it).unwrap(), "room_id"),
            _ => it,
        });
        // From room version 12 its id names the room.
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

/// The state that comes with an event may hold an odd one. It stands for what grants least.
#[test]
fn odd_events_of_a_given_state_grant_nothing() {
    let odd = |draft: Draft<'_>| draft.with("depth", json!(-1)).odd(|it| it);
    let acl =
        |room: &Room| odd(room.state(ALICE, "m.room.server_acl", "", json!({"allow": ["*"]})));
    let visibility = |room: &Room| {
        let content = json!({"history_visibility": "shared"});
        odd(room.state(ALICE, "m.room.history_visibility", "", content))
    };
    let topic =
        |room: &Room| odd(room.state(ALICE, "m.room.topic", "", json!({"topic": "a topic"})));
    let member = |room: &Room| odd(room.member(BOB, BOB, "join"));
    let nothing = |room: &Room| {
        room.state(ALICE, "m.room.topic", "", json!({})).with("state_key", json!(7)).odd(|it| it)
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
        let odd = make(&room);
        append(&memory, &NewEvent { outlier: true, ..room.accepted(&odd) });
        // A state of its own, in which carol's server has no joined user until the next event.
        let replaced: Value = serde_json::from_str(&odd.pdu).unwrap();
        let is_replaced = |it: &&Event| {
            let held: Value = serde_json::from_str(&it.pdu).unwrap();
            held["type"] == replaced["type"] && held["state_key"] == replaced["state_key"]
        };
        let kept = events[..4].iter().filter(|it| !is_replaced(it));
        let visible = events[2].event_id.clone();
        let mut given: Vec<String> = kept.map(|it| it.event_id.clone()).collect();
        given.retain(|it| *it != visible);
        given.push(odd.event_id.clone());
        let tip = room.message(ALICE, "tip").after_id("$not-held").finish();
        append(&memory, &NewEvent { state_after: &given, ..room.accepted(&tip) });
        // The other extremity is merged away.
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
        assert_eq!(form, expected, "{}", odd.pdu);
        assert_eq!(faults::of(&memory.cx.store), [], "{}", odd.pdu);
    }
}

/// The same through both services, on real sockets: 200, with everything before and after it.
#[tokio::test(flavor = "multi_thread")]
async fn other_servers_are_answered_around_an_odd_event() {
    let dir = tempfile::tempdir().unwrap();
    let keys = rooms::keys();
    let federation = Federation::new(&keys.signing);
    let services = Services::start(dir.path(), "hs1.example:9101", &keys.server).await;
    let (alice, bob) = ("@alice:hs1.example:9101", "@bob:hs2.example:9102");
    for version in VERSIONS {
        for (number, (what, change)) in rows(version).into_iter().enumerate() {
            let (room, create) = Room::named(version, alice, &format!("room{version}-{number}"));
            let mut served = vec![create];
            let mut odd = None;
            for draft in [
                room.member(alice, alice, "join"),
                room.member(bob, bob, "join"),
                room.message(bob, "before"),
                room.message(alice, "odd"),
                room.message(bob, "after"),
            ] {
                if served.len() < 4 || odd.is_some() {
                    let before = odd.as_ref().or(served.last());
                    served.push(draft.after(before).finish());
                } else {
                    let change =
                        |text: String| change(version, serde_json::from_str(&text).unwrap());
                    odd = Some(draft.after(served.last()).odd(change));
                }
            }
            let odd = odd.unwrap();
            for event in served[..4].iter().chain([&odd, &served[4]]) {
                let outcome =
                    ingest::append_unflushed(&services.cx, &room.accepted(event)).unwrap();
                assert!(matches!(outcome, Outcome::Appended { .. }), "{what}: {outcome:?}");
            }
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let (room_id, last) = (encode(&room.room_id), encode(&served[4].event_id));
            let uri = format!("/_matrix/federation/v1/backfill/{room_id}?v={last}&limit=100");
            let (origin, destination) = ("hs2.example:9102", "hs1.example:9101");
            let question =
                FederationQuestion { origin, destination, method: "GET", uri: &uri, content: None };
            let answer = federation.ask(services.gateway, question).await;
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

/// Whatever object it is: with an id it is kept, costs no more than an event may, and harms nothing.
#[test]
fn the_oddest_objects_are_kept() {
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
            let event_id = if number == 5 { "$itself".to_owned() } else { format!("$odd{number}") };
            let odd = Event { event_id, pdu: pdu.clone(), depth: 0, odd: true };
            let own_id = id_of_unreadable(pdu.as_bytes(), version).map(|it| it.as_str().to_owned());
            let odd = Event { event_id: own_id.unwrap_or(odd.event_id), ..odd };
            let soft_failed = Verdict::SoftFailed;
            let event = NewEvent { verdict: soft_failed, ..room.accepted(&odd) };
            // From room version 12 a create event makes a room of its own.
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
