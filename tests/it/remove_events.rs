//! Removed events leave no trace: a room is as if they had never been appended, and as before when they are
//! appended again. On random rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use backscroll::{
    ingest::{
        self, NewEvent, NotesLeft, Outcome, PurgedHistory, RemoveError, RemoveProgress,
        RemovedEvents,
    },
    pdu::{Event, EventId, RoomVersion},
    proto::v1 as pb,
    visibility::Form,
};
use proptest::{
    prelude::{any, prop, prop_assert, prop_assert_eq},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};

use tonic::Code::{InvalidArgument, NotFound};

use crate::support::{
    answers::{self, State},
    events::RoomExt as _,
    failures::{Row, Stage, all, assert_failures, unknown_room},
    faults,
    memory::Memory,
    pictures::{Picture, deliver, picture},
    worlds::{self, Delivery, Step, World},
};

const VERSIONS: [RoomVersion; 3] = [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12];
/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 16;
const STEPS: usize = 24;

fn read(world: &World, delivery: &Delivery) -> Event {
    let version = world.room.known_version();
    Event::read(delivery.event.pdu.as_bytes(), version, &delivery.event.event_id).unwrap()
}

fn remove(
    memory: &Memory,
    world: &World,
    event_ids: &[String],
    keep_as_outliers: bool,
) -> RemoveProgress {
    let room_id = &world.room.room_id;
    let events = RemovedEvents { room_id, event_ids, keep_as_outliers };
    let mut watch = |_| ControlFlow::Continue(());
    ingest::remove_events(&memory.cx.store, events, &mut watch).unwrap()
}

fn append(memory: &Memory, event: &NewEvent<'_>) {
    let outcome = ingest::append_unflushed(&memory.cx, event).unwrap();
    assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
}

fn settle(memory: &Memory, world: &World) {
    ingest::settle_waiting(&memory.cx.store, &world.room.room_id).unwrap();
    while ingest::work_off(&memory.cx).unwrap() != NotesLeft::None {}
}

/// The deliveries by which each event was placed in the graph.
fn placed(world: &World) -> BTreeMap<&str, &Delivery> {
    let placed = world.deliveries.iter().filter(|it| !it.outlier);
    placed.map(|it| (it.event.event_id.as_str(), it)).collect()
}

/// Appends the events that stay. Those that followed a removed one get their state as it was.
fn deliver_rest(
    memory: &Memory,
    world: &World,
    removed: &BTreeSet<&str>,
    states: &BTreeMap<&str, State>,
    keep_as_outliers: bool,
) {
    let placed = placed(world);
    for delivery in &world.deliveries {
        let event_id = delivery.event.event_id.as_str();
        let read = read(world, delivery);
        let is_unreadable = read.pdu().is_none();
        let is_kept = keep_as_outliers || read.state_entry().is_some() || is_unreadable;
        let mut changed = delivery.clone();
        if removed.contains(event_id) {
            if !is_kept {
                continue;
            }
            changed.outlier = true;
            changed.given.clear();
        }
        let mut prev_events = read.prev_events().iter().map(EventId::as_str);
        let was_cut = |it: &str| removed.contains(it) && placed.contains_key(it);
        if !changed.outlier && changed.given.is_empty() && prev_events.any(was_cut) {
            let state = states.get(event_id).cloned().flatten();
            changed.given = state.into_iter().flat_map(BTreeMap::into_values).collect();
        }
        append(memory, &changed.new_event(&world.room));
    }
    settle(memory, world);
}

/// Compares two pictures. Targets of removed redactions may be hidden in `found` only, and while the
/// current state is not known, former ones decide about access.
fn compare(
    found: &Picture,
    expected: &Picture,
    targets: &BTreeSet<String>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(&found.summary, &expected.summary);
    let ids: BTreeSet<&String> = found.states.keys().chain(expected.states.keys()).collect();
    for event_id in ids {
        let state = |it: &Picture| it.states.get(event_id).cloned().flatten();
        prop_assert_eq!(state(found), state(expected), "state after {}", event_id);
    }
    if expected.summary.state_count.is_none() {
        return Ok(());
    }
    for (of, expected) in &expected.served {
        let is_target = targets.contains(&of.1);
        let found = found.served.get(of);
        let is_hidden = found.is_some_and(|it| it.0 == Form::Redacted || of.0.is_empty());
        prop_assert!(found == Some(expected) || (is_target && is_hidden), "{:?}", of);
    }
    for of in found.served.keys() {
        prop_assert!(expected.served.contains_key(of), "{:?}", of);
    }
    Ok(())
}

fn run(
    version: RoomVersion,
    steps: &[Step],
    picks: &[Index],
    keep_as_outliers: bool,
) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let memory = Memory::new();
    deliver(&memory, &world);
    settle(&memory, &world);
    let before = picture(&memory, &world);
    let room_id = &world.room.room_id;
    let state = |it: &str| answers::state(&memory.cx, room_id, it);
    let states: BTreeMap<&str, State> =
        placed(&world).into_keys().map(|it| (it, state(it))).collect();
    let ids: BTreeSet<&str> =
        picks.iter().map(|it| it.get(&world.deliveries).event.event_id.as_str()).collect();
    let of_removed = world.deliveries.iter().filter(|it| ids.contains(it.event.event_id.as_str()));
    let targets: BTreeSet<String> = of_removed
        .clone()
        .filter_map(|it| read(&world, it).redacts().map(|it| it.as_str().to_owned()))
        .collect();
    let event_ids: Vec<String> =
        ids.iter().map(|it| (*it).to_owned()).chain(["$not-held".to_owned()]).collect();

    let progress = remove(&memory, &world, &event_ids, keep_as_outliers);
    prop_assert!(progress.done);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    let fresh = Memory::new();
    deliver_rest(&fresh, &world, &ids, &states, keep_as_outliers);
    compare(&picture(&memory, &world), &picture(&fresh, &world), &targets)?;
    let again = remove(&memory, &world, &event_ids, keep_as_outliers);
    prop_assert_eq!((again.removed, again.made_outliers), (0, 0));

    for delivery in of_removed {
        append(&memory, &delivery.new_event(&world.room));
    }
    settle(&memory, &world);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    compare(&picture(&memory, &world), &before, &targets)
}

#[test]
fn removed_events_leave_no_trace_and_return() {
    for version in VERSIONS {
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let picks = prop::collection::vec(any::<Index>(), 1..8);
        let strategy = (worlds::history(STEPS), picks, any::<bool>());
        TestRunner::new(config)
            .run(&strategy, |((steps, _), picks, keep)| run(version, &steps, &picks, keep))
            .unwrap();
    }
}

/// Purged history of which the events may return.
fn purge_and_return(
    version: RoomVersion,
    steps: &[Step],
    pick: Index,
) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let memory = Memory::new();
    deliver(&memory, &world);
    settle(&memory, &world);
    let before = picture(&memory, &world);
    let placed: Vec<_> = world.deliveries.iter().filter(|it| !it.outlier).collect();
    let event_id = pick.get(&placed).event.event_id.as_str();
    let purged = PurgedHistory { room_id: &world.room.room_id, event_id, may_return: true };
    let mut watch = |_| ControlFlow::Continue(());
    let progress = ingest::purge_history(&memory.cx.store, purged, &mut watch).unwrap();
    prop_assert!(progress.done);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    deliver(&memory, &world);
    settle(&memory, &world);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    let redactions = world.deliveries.iter().map(|it| read(&world, it));
    let targets = redactions.filter_map(|it| it.redacts().map(|it| it.as_str().to_owned()));
    compare(&picture(&memory, &world), &before, &targets.collect())
}

#[test]
fn purged_events_return_if_they_may() {
    for version in VERSIONS {
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 600,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = (worlds::history(STEPS), any::<Index>());
        TestRunner::new(config)
            .run(&strategy, |((steps, _), pick)| purge_and_return(version, &steps, pick))
            .unwrap();
    }
}

#[test]
fn an_unknown_room_and_too_many_events_are_refused() {
    let memory = Memory::new();
    let mut watch = |_| ControlFlow::Continue(());
    let mut remove = |event_ids: &[String]| {
        let events = RemovedEvents { room_id: "!no:a", event_ids, keep_as_outliers: true };
        ingest::remove_events(&memory.cx.store, events, &mut watch)
    };
    assert!(matches!(remove(&[]), Err(RemoveError::RoomUnknown(_))));
    let many = vec!["$a".to_owned(); ingest::MAX_REMOVED + 1];
    assert!(matches!(remove(&many), Err(RemoveError::TooMany(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let request = |room_id: String, event_ids| pb::RemoveEventsRequest {
        room_id,
        event_ids,
        keep_as_outliers: false,
    };
    let room = request(unknown_room(), vec![stage.last()]);
    let many = request(stage.room_id(), vec![String::new(); ingest::MAX_REMOVED + 1]);
    let rows =
        [Row::new(room, NotFound, "ROOM_UNKNOWN"), Row::new(many, InvalidArgument, "TOO_MANY_IDS")];
    let ingest = &stage.clients.ingest;
    let call = async |request| all(ingest.clone().remove_events(request).await).await;
    assert_failures(rows, call).await;
    let event_ids = vec![stage.last()];
    let one = request(stage.room_id(), event_ids);
    let responses = all(ingest.clone().remove_events(one).await).await.unwrap();
    let last = responses.last().unwrap();
    assert!(last.done && last.removed_event_count + last.outlier_count == 1, "{last:?}");
}
