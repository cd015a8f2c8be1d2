//! No server gets an event that it may not see: compares the service with a second, slow implementation
//! of the rules (`tests/it/support/model.rs`), on random rooms in room versions with different rules.
//!
//! If events are appended in order, the service responds exactly as the model does. If they are appended
//! in any order, at any moment, no event is served in full that the model hides when it knows the whole
//! room. Unknown state hides.

use std::collections::{BTreeSet, VecDeque};

use backscroll::{
    ingest::{self, Outcome},
    pdu::{Pdu, RoomVersion},
    query::{Asker, Backfill, GetMissingEvents},
    visibility::Form,
};
use proptest::{
    prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::support::{
    answers::{Question, Served},
    events::RoomExt as _,
    memory::Memory,
    model::{HOME, Held, Model},
    worlds::{self, Delivery, SERVERS, Step, USERS, World},
};

/// Room versions that differ in event ids, rules of redactions, redacted content, or power of creators.
const VERSIONS: [RoomVersion; 5] =
    [RoomVersion::V1, RoomVersion::V6, RoomVersion::V10, RoomVersion::V11, RoomVersion::V12];
/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 16;
const STEPS: usize = 30;

fn config() -> Config {
    let usual = Config::default();
    let cases = (usual.cases / WEIGHT).max(1);
    Config { cases, max_shrink_iters: 600, failure_persistence: None, ..usual }
}

/// A model of the events appended so far.
fn model(world: &World, deliveries: &[Delivery], erased: &[usize]) -> Model {
    let mut model = Model::new(world.room.known_version(), &world.room.room_id);
    for delivery in deliveries {
        model.add(&delivery.to_append());
    }
    model.erased = erased.iter().map(|it| USERS[*it].to_owned()).collect();
    model
}

fn erase(memory: &Memory, erased: &[usize]) {
    for user in erased {
        memory.cx.store.set_erased(USERS[*user], true).unwrap();
    }
}

fn deliver(memory: &Memory, world: &World, delivery: &Delivery) {
    let outcome = ingest::append_unflushed(&memory.cx, &delivery.new_event(&world.room)).unwrap();
    assert!(matches!(outcome, Outcome::Appended { redacted: false, .. }), "{outcome:?}");
}

fn asker(origin: &str) -> Asker {
    Asker::Server { origin: origin.to_owned(), destination: HOME.to_owned() }
}

/// A request for every event of the room.
fn everything(world: &World, origin: &str) -> Question {
    Question::Backfill(Backfill {
        room_id: world.room.room_id.clone(),
        asker: asker(origin),
        event_ids: world.deliveries.iter().map(|it| it.event.event_id.clone()).collect(),
        limit: Some(100),
    })
}

/// Random numbers that select the parameters of a request.
type Picks = (Vec<Index>, Vec<Index>, u32, i64);

fn picks() -> impl Strategy<Value = Vec<Picks>> {
    let some = || prop::collection::vec(proptest::prelude::any::<Index>(), 1..4);
    prop::collection::vec((some(), some(), 1u32..12, 0i64..12), 4)
}

#[test]
fn responses_equal_those_of_the_model_when_events_are_in_order() {
    for version in VERSIONS {
        let strategy = (worlds::history(STEPS), picks());
        TestRunner::new(config())
            .run(&strategy, |((steps, erased), picks)| in_order(version, &steps, &erased, &picks))
            .unwrap();
    }
}

fn in_order(
    version: RoomVersion,
    steps: &[Step],
    erased: &[usize],
    picks: &[Picks],
) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let memory = Memory::new();
    erase(&memory, erased);
    for delivery in &world.deliveries {
        deliver(&memory, &world, delivery);
    }
    let model = model(&world, &world.deliveries, erased);
    for origin in SERVERS {
        let mut questions = vec![everything(&world, origin)];
        for (some, others, limit, min_depth) in picks {
            let ids = |picks: &[Index]| -> Vec<String> {
                picks.iter().map(|it| it.get(&world.deliveries).event.event_id.clone()).collect()
            };
            let (room_id, asker) = (world.room.room_id.clone(), asker(origin));
            questions.push(Question::Backfill(Backfill {
                room_id: room_id.clone(),
                asker: asker.clone(),
                event_ids: ids(some),
                limit: Some(*limit),
            }));
            questions.push(Question::MissingEvents(GetMissingEvents {
                room_id,
                asker,
                earliest_events: ids(others),
                latest_events: ids(some),
                limit: Some(*limit),
                min_depth: *min_depth,
            }));
        }
        for question in questions {
            let answer = question.ask(&memory.cx).ok();
            prop_assert_eq!(answer.is_some(), model.admits(origin), "{} asks", origin);
            if let Some(Served { events, .. }) = answer {
                let expected: Vec<String> = match &question {
                    Question::Backfill(it) => backfill(&model, it),
                    Question::MissingEvents(it) => missing_events(&model, it),
                };
                let ids: Vec<String> = events.iter().map(|it| it.0.clone()).collect();
                prop_assert_eq!(ids, expected, "{:?}", question);
                for (event_id, form, pdu) in &events {
                    let whole = model.shows_whole(event_id, origin);
                    let at = format!("{event_id} {} for {origin}", model.held[event_id].pdu);
                    prop_assert_eq!(*form == Form::Full, whole, "{}", at);
                    prop_assert_eq!(pdu, &text(&model, event_id, whole), "{}", at);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn no_hidden_event_is_served_in_full_at_any_moment() {
    for version in VERSIONS {
        let strategy = worlds::history(STEPS).prop_flat_map(move |(steps, erased)| {
            let count = World::new(version, &steps).deliveries.len();
            (Just(steps), Just(erased), prop_oneof![shuffled(count), some_late(count)])
        });
        TestRunner::new(config())
            .run(&strategy, |(steps, erased, order)| any_order(version, &steps, &erased, &order))
            .unwrap();
    }
}

fn shuffled(count: usize) -> impl Strategy<Value = Vec<usize>> {
    Just((0..count).collect::<Vec<usize>>()).prop_shuffle()
}

/// In order except for some events, so that most of the room is known at any moment.
fn some_late(count: usize) -> impl Strategy<Value = Vec<usize>> {
    let lateness = prop_oneof![4 => Just(0), 1 => 1..12usize];
    prop::collection::vec(lateness, count).prop_map(|lateness| {
        let mut order: Vec<usize> = (0..lateness.len()).collect();
        order.sort_by_key(|it| it + lateness[*it]);
        order
    })
}

fn any_order(
    version: RoomVersion,
    steps: &[Step],
    erased: &[usize],
    order: &[usize],
) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let memory = Memory::new();
    erase(&memory, erased);
    let truth = model(&world, &world.deliveries, erased);
    let mut known = model(&world, &[], erased);
    for (at, place) in order.iter().enumerate() {
        let delivery = &world.deliveries[*place];
        deliver(&memory, &world, delivery);
        known.add(&delivery.to_append());
        let origin = SERVERS[at % SERVERS.len()];
        check(&memory, &world, &known, &truth, origin)?;
    }
    for origin in SERVERS {
        check(&memory, &world, &known, &truth, origin)?;
    }
    Ok(())
}

/// Compares the service with a model that knows the same events and with one that knows all events.
fn check(
    memory: &Memory,
    world: &World,
    known: &Model,
    truth: &Model,
    origin: &str,
) -> Result<(), TestCaseError> {
    let answer = everything(world, origin).ask(&memory.cx).ok();
    prop_assert_eq!(answer.is_some(), known.admits(origin), "{} asks", origin);
    for (event_id, form, _) in answer.into_iter().flat_map(|it| it.events) {
        let at = format!("{event_id} {} for {origin}", truth.held[&event_id].pdu);
        prop_assert!(known.placed(&event_id).is_some_and(Held::is_served), "{}", at);
        let whole = form == Form::Full;
        prop_assert_eq!(whole, known.shows_whole(&event_id, origin), "{}", at);
        // A redaction has no effect before it arrives, or if its sender had lost the power by then.
        let is_in_force =
            |redaction_id: &String| known.placed(redaction_id).is_some_and(|it| !it.powerless);
        let mut redactions = truth.held.iter().filter(|(_, it)| it.redacts() == Some(&*event_id));
        let in_force = redactions.all(|(redaction_id, _)| is_in_force(redaction_id));
        prop_assert!(!whole || truth.shows_whole(&event_id, origin) || !in_force, "{}", at);
    }
    Ok(())
}

/// The bytes of an event in a form, computed with ruma.
fn text(model: &Model, event_id: &str, whole: bool) -> Vec<u8> {
    let pdu = model.held[event_id].pdu.clone();
    if whole {
        return pdu.to_string().into_bytes();
    }
    let Ok(ruma::CanonicalJsonValue::Object(object)) =
        ruma::canonical_json::to_canonical_value(pdu)
    else {
        panic!("a PDU is an object")
    };
    let redaction = &model.version.rules().redaction;
    let redacted = ruma::canonical_json::redact(object, redaction, None).unwrap();
    ruma::CanonicalJsonValue::Object(redacted).to_string().into_bytes()
}

fn backfill(model: &Model, question: &Backfill) -> Vec<String> {
    let mut reach: BTreeSet<(i64, i64, String)> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut next = question.event_ids.clone();
    loop {
        for event_id in next {
            if let Some(held) = model.placed(&event_id)
                && seen.insert(event_id.clone())
            {
                reach.insert((held.depth(), held.arrival, event_id));
            }
        }
        let full = u32::try_from(found.len()).unwrap() >= question.limit.unwrap();
        let Some((depth, arrival, event_id)) = reach.pop_last().filter(|_| !full) else { break };
        let held = &model.held[&event_id];
        next = held.prev.clone();
        if held.is_served() {
            found.push((depth, arrival, event_id));
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, _, event_id)| event_id).collect()
}

fn missing_events(model: &Model, question: &GetMissingEvents) -> Vec<String> {
    let limit = usize::try_from(question.limit.unwrap().min(20)).unwrap();
    let mut seen: BTreeSet<String> = question.earliest_events.iter().cloned().collect();
    let mut queue = VecDeque::new();
    for event_id in &question.latest_events {
        if seen.insert(event_id.clone()) && model.placed(event_id).is_some() {
            queue.push_back(event_id.clone());
        }
    }
    let mut found: Vec<String> = Vec::new();
    while let Some(event_id) = queue.pop_front() {
        for prev in &model.held[&event_id].prev {
            let Some(held) = model.placed(prev) else { continue };
            if !seen.insert(prev.clone()) || held.depth() < question.min_depth {
                continue;
            }
            if held.is_served() && found.len() < limit {
                found.push(prev.clone());
            }
            if found.len() < limit {
                queue.push_back(prev.clone());
            }
        }
    }
    // Oldest first, and each event after its predecessors.
    let mut ordered = Vec::new();
    while ordered.len() < found.len() {
        let is_ready = |it: &&String| {
            let waits = model.held[*it]
                .prev
                .iter()
                .any(|prev| found.contains(prev) && !ordered.contains(prev));
            !ordered.contains(*it) && !waits
        };
        let place = |it: &&String| (model.held[*it].depth(), model.held[*it].arrival);
        ordered.push(found.iter().filter(is_ready).min_by_key(place).unwrap().clone());
    }
    ordered
}

#[test]
fn a_redacted_event_keeps_its_id() {
    let world = World::new(RoomVersion::V10, &[]);
    let model = model(&world, &world.deliveries, &[]);
    for event_id in model.held.keys() {
        let redacted = Pdu::parse(&text(&model, event_id, false), RoomVersion::V10).unwrap();
        assert_eq!(redacted.event_id().as_str(), event_id);
    }
}
