//! The cost of the parts of a response and of an append, each alone: `cargo bench --bench parts`.

use std::{collections::BTreeMap, convert::Infallible, hint::black_box, sync::Arc, time::Duration};

use backscroll::{
    context::Context,
    graph::{self, Position},
    ingest::{self, NewEvent, Outcome},
    pdu::{self, Pdu, RoomVersion, ServerKey, verify_signatures},
    state::map::{self, MapKey, Membership, Node, Nodes, Ptr, Value},
    store::{Edit, Options, Store, View},
};
use backscroll_testkit::{Event, Room};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use criterion::Criterion;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::json;

const CREATOR: &str = "@creator:ours.example";

/// An event of a room, accepted, to be appended.
fn new_event<'a>(room: &'a Room, event: &'a Event) -> NewEvent<'a> {
    let pdu = event.pdu.as_bytes();
    NewEvent::accepted(&room.room_id, room.version.as_str(), &event.event_id, pdu)
}

fn main() {
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(2)).configure_from_args();
    walk(&mut criterion);
    state_step(&mut criterion);
    event_check(&mut criterion);
    in_a_store(&mut criterion);
    criterion.final_summary();
}

/// A walk of 100 events in a straight line.
fn walk(criterion: &mut Criterion) {
    let node = |id: u32| {
        let prev_events = id.checked_sub(1).into_iter().collect();
        let position = Position { depth: id.into(), arrival: id.into() };
        Ok::<_, Infallible>(Some(graph::WalkNode {
            position,
            servable: true,
            prev_events,
            has_gap: false,
            event: (),
        }))
    };
    criterion.bench_function("walk, 100 events", |bencher| {
        bencher.iter(|| graph::walk_back(black_box(&[5_000]), 100, 1_400, node, |_, ()| Ok(true)));
    });
}

/// State nodes in memory.
#[derive(Default)]
struct Map(BTreeMap<(u32, u32), Arc<Node>>);

impl Nodes for Map {
    type Error = Infallible;

    fn node(&self, at: Ptr) -> Result<Arc<Node>, Infallible> {
        Ok(Arc::clone(self.0.get(&(at.record, at.slot)).expect("a node that was written")))
    }
}

/// One more member in a room of 100,000 members.
fn state_step(criterion: &mut Criterion) {
    let mut nodes = Map::default();
    let value = |event| Value::Event { event, membership: Membership::Joined };
    let mut first = map::MapEdit::new(&nodes, None);
    for event in 0..100_000 {
        let key = MapKey::of_state("m.room.member", &format!("@user:server{event}.example"));
        first.set(key, Some(value(event))).expect("it cannot fail");
    }
    let written = first.finish(0).expect("it cannot fail");
    nodes.0 = (0..).map(|slot| (0, slot)).zip(written.into_iter().map(Arc::new)).collect();
    let key = MapKey::of_state("m.room.member", "@another:server.example");
    criterion.bench_function("state step, 100,000 entries", |bencher| {
        bencher.iter(|| {
            let mut edit = map::MapEdit::new(&nodes, Some(Ptr { record: 0, slot: 0 }));
            edit.set(black_box(key), Some(value(1))).expect("it cannot fail");
            edit.finish(1)
        });
    });
}

/// The checks of an event that do not need its room.
fn event_check(criterion: &mut Criterion) {
    let (room, create) = Room::new(RoomVersion::V10, CREATOR);
    let event = room.message(CREATOR, "good morning, everybody").after([&create]).finish();
    criterion.bench_function("event check: format, id, hash", |bencher| {
        bencher.iter(|| {
            let pdu = Pdu::parse(black_box(event.pdu.as_bytes()), RoomVersion::V10);
            assert!(pdu.expect("a PDU").content_hash_matches());
        });
    });
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = backscroll_matrix::VerifyKey::from_bytes(key.verifying_key().as_bytes());
    let public = public.ok().map(|key| ServerKey { key, valid_until_ts: u64::MAX });
    let signature = STANDARD_NO_PAD.encode(key.sign(b"something else").to_bytes());
    let mut signed: serde_json::Value = serde_json::from_str(&event.pdu).expect("JSON");
    if let Some(members) = signed.as_object_mut() {
        members.insert("signatures".to_owned(), json!({"ours.example": {"ed25519:1": signature}}));
    }
    let pdu = Pdu::parse(signed.to_string().as_bytes(), RoomVersion::V10).expect("a PDU");
    // An invalid signature takes as long as a valid one.
    criterion.bench_function("event check: one signature", |bencher| {
        bencher.iter(|| verify_signatures(black_box(&pdu), &|_, _| public));
    });
}

/// State resolution where two branches meet that have set ten entries each, and encoding of bodies.
fn in_a_store(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let cx = Context::new(Store::open(&Options::small(dir.path())).expect("a store"));
    let (room, create) = Room::new(RoomVersion::V10, CREATOR);
    let append = |event: Event| {
        let outcome =
            ingest::append_unflushed(&cx, &new_event(&room, &event)).expect("a working store");
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
        event
    };
    let auth = |event: &Event| vec![event.event_id.clone()];
    let create = append(create);
    let join = room.member(CREATOR, CREATOR, "join").after([&create]).authorised_by(auth(&create));
    let join = append(join.finish());
    let mut ends = Vec::new();
    for branch in 0..2 {
        let mut end = join.clone();
        for entry in 0..10 {
            let state = room.state(CREATOR, "entry", &entry.to_string(), json!({"by": branch}));
            let ids = [create.event_id.clone(), join.event_id.clone()];
            end = append(state.after([&end]).authorised_by(ids).finish());
        }
        ends.push(end);
    }
    let meeting = append(room.message(CREATOR, "hello").after(&ends).finish());
    let pdu = Pdu::parse(meeting.pdu.as_bytes(), RoomVersion::V10).expect("a PDU");
    let read = pdu::Event::Readable(Box::new(pdu.clone()));
    let number = cx.store.room_num(&room.room_id).expect("it reads").expect("a room");
    let event = cx.store.event_num(number, &meeting.event_id).expect("it reads").expect("held");
    let edit = || -> Edit<'_> { cx.store.hold(&room.room_id).expect("it reads").expect("a room") };
    criterion.bench_function("resolution, two branches of ten entries", |bencher| {
        bencher.iter(|| {
            let derived = ingest::derive(&mut edit(), event, &read).expect("it reads");
            assert!(derived.state_after.is_some());
        });
    });
    criterion.bench_function("body, encode", |bencher| {
        let mut edit = edit();
        bencher
            .iter(|| edit.put_body(event, &meeting.event_id, black_box(pdu.bytes_as_received())));
    });
    criterion.bench_function("body, decode", |bencher| {
        let mut edit = edit();
        edit.put_body(event, &meeting.event_id, pdu.bytes_as_received());
        bencher.iter(|| edit.body(number, black_box(event)).expect("it reads"));
    });
}
