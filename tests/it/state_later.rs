//! Events that are appended before their predecessors or without them, with the state after them given
//! later. Until then the room is answered from its last known state, and grants no more than that. In the
//! end the room is the same as if everything had been appended in order.

use std::collections::BTreeSet;

use backscroll::{
    ingest::{self, NewEvent, Outcome},
    pdu::RoomVersion,
    query::{self, Asker, Backfill, ExplainAccess},
    store::View as _,
    visibility::Form,
};
use backscroll_testkit::{Event, Room};
use proptest::{
    prelude::{Just, Strategy, any, prop, prop_assert_eq},
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::json;

use crate::support::{
    answers::{self, Answer, Question, State, Summary},
    events::RoomExt as _,
    faults,
    memory::Memory,
    model::HOME,
    worlds::{self, Delivery, SERVERS, World},
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
const CAROL: &str = "@carol:three.example";
const VERSIONS: [RoomVersion; 3] = [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12];

/// A store with a room of three servers.
struct Stage {
    memory: Memory,
    room: Room,
    events: Vec<Event>,
}

impl Stage {
    fn new(version: RoomVersion) -> Self {
        let (room, create) = Room::new(version, ALICE);
        let stage = Self { memory: Memory::new(), room, events: vec![create] };
        stage.append(&stage.events[0], &[]);
        let mut stage = stage;
        for user in [ALICE, BOB, CAROL] {
            let join = stage.room.member(user, user, "join").after(stage.events.last()).finish();
            stage.append(&join, &[]);
            stage.events.push(join);
        }
        stage
    }

    fn last(&self) -> &Event {
        self.events.last().unwrap()
    }

    fn append(&self, event: &Event, state_after: &[String]) -> (bool, bool, bool) {
        let event = NewEvent { state_after, ..self.room.accepted(event) };
        match ingest::append_unflushed(&self.memory.cx, &event).unwrap() {
            Outcome::Appended { duplicate, state_given, state_unknown, .. } => {
                (duplicate, state_given, state_unknown)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The ids of the state after an event that is not a state event.
    fn state(&self) -> Vec<String> {
        self.events.iter().map(|it| it.event_id.clone()).collect()
    }

    fn ask(&self, from: &Event, origin: &str) -> Result<Vec<(String, Form)>, String> {
        let question = Question::Backfill(Backfill {
            room_id: self.room.room_id.clone(),
            asker: Asker::Server { origin: origin.to_owned(), destination: HOME.to_owned() },
            event_ids: vec![from.event_id.clone()],
            limit: Some(100),
        });
        let served = question.ask(&self.memory.cx)?;
        Ok(served.events.into_iter().map(|(event_id, form, _)| (event_id, form)).collect())
    }

    fn is_sound(&self) {
        assert_eq!(faults::of(&self.memory.cx.store), []);
    }
}

const NEW: (bool, bool, bool) = (false, false, false);
const OF_UNKNOWN_STATE: (bool, bool, bool) = (false, false, true);
const HELD: (bool, bool, bool) = (true, false, false);
const GIVEN: (bool, bool, bool) = (false, true, false);

#[test]
fn a_missing_predecessor_does_not_close_a_room() {
    for version in VERSIONS {
        let stage = Stage::new(version);
        let room = &stage.room;
        let hello = room.message(BOB, "hello").after([stage.last()]).finish();
        let lost = room.message(CAROL, "lost").after([&hello]).finish();
        let tip = room.message(CAROL, "tip").after([&lost]).finish();
        let next = room.message(BOB, "next").after([&tip, &hello]).finish();
        assert_eq!(stage.append(&hello, &[]), NEW);
        assert_eq!(stage.append(&tip, &[]), OF_UNKNOWN_STATE);
        assert_eq!(stage.append(&next, &[]), OF_UNKNOWN_STATE);
        // Servers with access keep it. The event of unknown state is hidden.
        for server in ["two.example", "three.example"] {
            let served = stage.ask(&next, server).unwrap();
            let form = |event: &Event| served.iter().find(|it| it.0 == event.event_id).unwrap().1;
            assert_eq!((form(&next), form(&tip)), (Form::Redacted, Form::Redacted));
            assert_eq!((form(&hello), form(&stage.events[2])), (Form::Full, Form::Full));
        }
        assert!(stage.ask(&next, "no.example").is_err());
        // The summary names the event whose state is needed.
        let room_id = room.room_id.as_str();
        let summary = answers::room(&stage.memory.cx, room_id).unwrap();
        assert_eq!(summary.state_needed, [tip.event_id.as_str()]);
        let stats = query::stats(&stage.memory.cx).unwrap();
        assert_eq!((stats.sizes.state_unknown, stats.unknown_rooms.len()), (1, 1));
        assert!(stats.unknown_rooms[0].is_answered);
        assert_eq!(stats.unknown_rooms[0].state_needed, [tip.event_id.as_str()]);
        let question = ExplainAccess {
            room_id: room_id.to_owned(),
            event_id: next.event_id.clone(),
            origin: "two.example".to_owned(),
            destination: HOME.to_owned(),
        };
        let explained = answers::ask(&stage.memory.cx, &question).unwrap();
        assert!(explained.facts.iter().any(|it| it.contains(&tip.event_id)), "{explained:?}");
        stage.is_sound();
        // The event is appended again with the state after it.
        assert_eq!(stage.append(&tip, &stage.state()), GIVEN);
        assert_eq!(stage.append(&tip, &stage.state()), HELD);
        assert_eq!(stage.append(&next, &[]), HELD);
        let served = stage.ask(&next, "two.example").unwrap();
        assert!(served.iter().all(|it| it.1 == Form::Full), "{served:?}");
        assert_eq!(query::stats(&stage.memory.cx).unwrap().sizes.state_unknown, 0);
        stage.is_sound();
    }
}

/// The missing predecessors are appended instead.
#[test]
fn late_predecessors_result_in_the_same_room() {
    let stage = Stage::new(RoomVersion::V10);
    let room = &stage.room;
    let lost = room.member(CAROL, CAROL, "leave").after([stage.last()]).finish();
    let tip = room.message(BOB, "tip").after([&lost]).finish();
    assert_eq!(stage.append(&tip, &[]), OF_UNKNOWN_STATE);
    assert!(stage.ask(&tip, "three.example").is_ok());
    assert_eq!(stage.append(&lost, &[]), NEW);
    assert!(stage.ask(&tip, "three.example").is_err());
    let served = stage.ask(&tip, "two.example").unwrap();
    assert!(served.iter().all(|it| it.1 == Form::Full), "{served:?}");
    stage.is_sound();
}

#[test]
fn later_knowledge_can_only_take_rights_away() {
    let stage = Stage::new(RoomVersion::V10);
    let room = &stage.room;
    let unknown = |name: &str| room.message(BOB, name).after_id("$not-held").finish();
    let first = unknown("first");
    assert_eq!(stage.append(&first, &[]), OF_UNKNOWN_STATE);
    // A known branch beside it: carol leaves, dave joins.
    let leave = room.member(CAROL, CAROL, "leave").after([stage.last()]).finish();
    assert_eq!(stage.append(&leave, &[]), NEW);
    let dave = "@dave:four.example";
    let join = room.member(dave, dave, "join").after([&leave]).finish();
    assert_eq!(stage.append(&join, &[]), NEW);
    let denied = |server: &str| stage.ask(&join, server).is_err();
    assert!(!denied("two.example") && denied("three.example") && denied("four.example"));
    // An event of unknown state follows both; the known states stay known.
    let merge = room.message(BOB, "merge").after([&first, &join]).finish();
    assert_eq!(stage.append(&merge, &[]), OF_UNKNOWN_STATE);
    assert!(!denied("two.example") && denied("three.example") && denied("four.example"));
    stage.is_sound();
    // The same for an access control list.
    let acl = json!({"allow": ["*"], "deny": ["two.example"]});
    let acl = room.state(ALICE, "m.room.server_acl", "", acl).after([&join]).finish();
    assert_eq!(stage.append(&acl, &[]), NEW);
    assert!(denied("two.example"));
    let merge = room.message(ALICE, "merge").after([&merge, &acl]).finish();
    assert_eq!(stage.append(&merge, &[]), OF_UNKNOWN_STATE);
    assert!(denied("two.example"));
    // When the state is known again, it alone decides.
    let state: Vec<String> = stage.state();
    let state: Vec<String> = state[..3].iter().cloned().chain([join.event_id.clone()]).collect();
    assert_eq!(stage.append(&merge, &state), GIVEN);
    assert!(!denied("two.example") && denied("three.example") && !denied("four.example"));
    stage.is_sound();
}

#[test]
fn a_room_whose_state_was_never_known_gives_no_access() {
    let (room, _) = Room::new(RoomVersion::V10, ALICE);
    let stage = Stage { memory: Memory::new(), room, events: vec![] };
    let alone = stage.room.member(BOB, BOB, "join").after_id("$not-held").finish();
    assert_eq!(stage.append(&alone, &[]), OF_UNKNOWN_STATE);
    assert!(stage.ask(&alone, "two.example").unwrap_err().contains("not known"));
    let stats = query::stats(&stage.memory.cx).unwrap();
    assert!(!stats.unknown_rooms[0].is_answered);
}

/// A given state with events that are not stored yet waits for them; a later given state replaces it.
#[test]
fn a_state_may_be_given_in_any_order_and_twice() {
    let stage = Stage::new(RoomVersion::V10);
    let room = &stage.room;
    let tip = room.message(BOB, "tip").after_id("$not-held").finish();
    let topic = room.state(ALICE, "m.room.topic", "", json!({"topic": "later"})).finish();
    let with_topic: Vec<String> = stage.state().into_iter().chain([topic.event_id]).collect();
    assert_eq!(stage.append(&tip, &with_topic), OF_UNKNOWN_STATE);
    assert_eq!(stage.append(&tip, &with_topic), (true, false, true));
    assert_eq!(stage.append(&tip, &stage.state()), GIVEN);
    // The state is known now and does not change any more.
    assert_eq!(stage.append(&tip, &with_topic), HELD);
    let state = answers::state(&stage.memory.cx, &room.room_id, &tip.event_id).unwrap();
    assert_eq!(state.len(), stage.events.len());
    stage.is_sound();
}

/// A server may read its own user's member event if the state before or after allows it, also when the
/// state before becomes known after the given state.
#[test]
fn the_state_before_counts_in_either_order() {
    for given_first in [true, false] {
        let stage = Stage::new(RoomVersion::V10);
        let room = &stage.room;
        let content = json!({"history_visibility": "joined"});
        let joined = room.state(ALICE, "m.room.history_visibility", "", content);
        let joined = joined.after([stage.last()]).finish();
        let leave = room.member(CAROL, CAROL, "leave").after([&joined]).finish();
        let again = room.member(CAROL, CAROL, "join").after([&leave]).finish();
        let mut state = stage.state();
        state.truncate(3);
        state.extend([joined.event_id.clone(), leave.event_id.clone()]);
        if given_first {
            assert_eq!(stage.append(&leave, &state), OF_UNKNOWN_STATE);
            assert_eq!(stage.append(&again, &[]), OF_UNKNOWN_STATE);
            assert_eq!(stage.append(&joined, &[]), NEW);
        } else {
            assert_eq!(stage.append(&joined, &[]), NEW);
            assert_eq!(stage.append(&leave, &state), NEW);
            assert_eq!(stage.append(&again, &[]), NEW);
        }
        let served = stage.ask(&again, "three.example").unwrap();
        let form = served.iter().find(|it| it.0 == leave.event_id).unwrap().1;
        assert_eq!(form, Form::Full, "the state first: {given_first}");
        stage.is_sound();
    }
}

/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 24;
const STEPS: usize = 24;

/// Random rooms with unreadable events, in random orders. A part is missing at first. Events of unknown
/// state are appended again with their state, then the missing part is appended. In the end the room is
/// the same as in order: every response, every state, the extremities and the counts.
#[test]
fn states_given_later_result_in_the_same_room() {
    for version in [
        RoomVersion::V1,
        RoomVersion::V5,
        RoomVersion::V6,
        RoomVersion::V10,
        RoomVersion::V11,
        RoomVersion::V12,
    ] {
        let usual = Config::default();
        let cases = (usual.cases / WEIGHT).max(1);
        let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..usual };
        let strategy =
            prop::collection::vec(worlds::step(), 1..STEPS).prop_flat_map(move |steps| {
                let count = World::whole(version, &steps).deliveries.len();
                let order: Vec<usize> = (0..count).collect();
                let order = proptest::prop_oneof![Just(order.clone()), Just(order).prop_shuffle()];
                let held_back = prop::collection::vec(prop::bool::weighted(0.2), count);
                (Just(steps), order, held_back, any::<bool>())
            });
        TestRunner::new(config)
            .run(&strategy, |(steps, order, held_back, mended_first)| {
                let world = World::whole(version, &steps);
                mended_later(&world, &order, &held_back, mended_first)
            })
            .unwrap();
    }
}

fn mended_later(
    world: &World,
    order: &[usize],
    held_back: &[bool],
    mended_first: bool,
) -> Result<(), TestCaseError> {
    let at_once = Memory::new();
    for delivery in &world.deliveries {
        send(&at_once, world, delivery, false);
    }
    let later = Memory::new();
    let (holes, others): (Vec<usize>, Vec<usize>) = order.iter().partition(|at| held_back[**at]);
    let send_all = |places: &[usize]| -> BTreeSet<usize> {
        places
            .iter()
            .copied()
            .filter(|at| send(&later, world, &world.deliveries[*at], false))
            .collect()
    };
    // `state_unknown` is returned for events behind a gap and for events that wait for the missing part.
    let mut unknown = send_all(&others);
    let mend = |places: &BTreeSet<usize>| {
        for at in places {
            send(&later, world, &world.deliveries[*at], true);
        }
    };
    if mended_first {
        mend(&unknown);
    }
    unknown.extend(send_all(&holes));
    mend(&unknown);
    prop_assert_eq!(faults::of(&later.cx.store), []);
    prop_assert_eq!(picture(&later, world), picture(&at_once, world));
    Ok(())
}

/// Appends an event, with the state after it if one is given; returns whether its state is unknown then.
fn send(memory: &Memory, world: &World, delivery: &Delivery, with_state: bool) -> bool {
    let given = if with_state { delivery.given.clone() } else { vec![] };
    let delivery = Delivery { given, ..delivery.clone() };
    match ingest::append_unflushed(&memory.cx, &delivery.new_event(&world.room)).unwrap() {
        Outcome::Appended { state_unknown, .. } => state_unknown,
        other => panic!("{other:?}"),
    }
}

/// The results of all queries.
fn picture(memory: &Memory, world: &World) -> (Vec<Answer>, Vec<State>, Summary) {
    let ids: Vec<String> = world
        .deliveries
        .iter()
        .map(|it| it.event.event_id.clone())
        .chain([String::new()])
        .collect();
    let room_id = &world.room.room_id;
    let ask = |origin: &&str| {
        Question::Backfill(Backfill {
            room_id: room_id.clone(),
            asker: Asker::Server { origin: (*origin).to_owned(), destination: HOME.to_owned() },
            event_ids: ids.clone(),
            limit: Some(100),
        })
        .ask(&memory.cx)
    };
    let states = ids.iter().map(|it| answers::state(&memory.cx, room_id, it));
    let answers = SERVERS.iter().map(ask).collect();
    (answers, states.collect(), answers::summary(&memory.cx, room_id))
}

/// Power levels behind a gap grant Bob the power to redact. It is not known when they were in force, so
/// Bob's redaction takes effect, although the power levels known to be in force deny it.
#[test]
fn a_redaction_takes_effect_while_the_power_of_its_sender_is_not_known() {
    for version in [RoomVersion::V10, RoomVersion::V12] {
        let stage = Stage::new(version);
        let room = &stage.room;
        let levels = |bob: i64| {
            room.state(
                ALICE,
                "m.room.power_levels",
                "",
                json!({"users": {BOB: bob}, "redact": 50, "users_default": 0}),
            )
        };
        let denied = levels(0).after([stage.last()]).finish();
        let said = room.message(CAROL, "said").after([&denied]).finish();
        let lost = room.message(ALICE, "lost").after([&said]).finish();
        let granted = levels(50).after([&lost]).finish();
        let next = room.message(ALICE, "next").after([&granted]).finish();
        let redaction = room.redaction(BOB, &said.event_id).after([&next]).finish();
        stage.append(&denied, &[]);
        stage.append(&said, &[]);
        assert_eq!(stage.append(&granted, &[]), OF_UNKNOWN_STATE);
        let mut state = stage.state();
        state.push(granted.event_id.clone());
        assert_eq!(stage.append(&next, &state), NEW);
        assert_eq!(stage.append(&redaction, &[]), NEW);
        let store = &stage.memory.cx.store;
        let number = store.room_num(&room.room_id).unwrap().unwrap();
        let event = store.event_num(number, &said.event_id).unwrap().unwrap();
        let flags = store.topology(number).node(event).unwrap().unwrap().flags;
        assert!(flags.redacted, "{version}");
        stage.is_sound();
    }
}
