//! Purged events are removed and do not return, and no other event changes: on random rooms, whose events
//! are all appended again afterwards. Also the deletion of whole rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use backscroll::{
    ingest::{self, Outcome, PurgeProgress, PurgedHistory},
    pdu::RoomVersion,
    query::{ListPurgedEvents, PageRequest, QueryError},
    store::View as _,
    visibility::Form,
};
use proptest::{
    prelude::{Strategy, any, prop_assert, prop_assert_eq},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::support::{
    answers,
    events::RoomExt as _,
    faults,
    memory::Memory,
    pictures::{deliver, picture},
    worlds::{self, Step, World},
};

const VERSIONS: [RoomVersion; 3] = [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12];
/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 16;
const STEPS: usize = 24;

fn purge(memory: &Memory, world: &World, event_id: &str) -> PurgeProgress {
    let room_id = &world.room.room_id;
    let purged = PurgedHistory { room_id, event_id, may_return: false };
    let mut watch = |_| ControlFlow::Continue(());
    ingest::purge_history(&memory.cx.store, purged, &mut watch).unwrap()
}

fn run(version: RoomVersion, steps: &[Step], pick: Index) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let memory = Memory::new();
    deliver(&memory, &world);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    let placed: Vec<_> = world.deliveries.iter().filter(|it| !it.outlier).collect();
    let chosen = &pick.get(&placed).event;
    let before = picture(&memory, &world);

    let progress = purge(&memory, &world, &chosen.event_id);
    prop_assert_eq!(progress.removed + progress.made_outliers, progress.to_purge);
    prop_assert!(progress.done);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    let after = picture(&memory, &world);
    let (room_id, page) = (world.room.room_id.clone(), PageRequest::default());
    let list = answers::ask(&memory.cx, &ListPurgedEvents { room_id, page }).unwrap();
    // Tombstones may also remove the targets of purged redactions from the list of missing events.
    prop_assert!(list.event_id_hashes.len() >= usize::try_from(progress.to_purge).unwrap());

    let extremities = &before.summary.forward_extremities;
    prop_assert_eq!(&after.summary.forward_extremities, extremities);
    prop_assert_eq!(after.summary.state_count, before.summary.state_count);
    for (of, (form, pdu)) in &after.served {
        let (form_before, pdu_before) = &before.served[of];
        // An event whose state before was removed may be hidden. An event whose redaction was removed
        // stays redacted, also for internal callers. No server sees more than before.
        let is_hidden = *form == Form::Redacted || of.0.is_empty();
        prop_assert!(pdu == pdu_before || is_hidden, "{:?}", of);
        prop_assert!(pdu.len() <= pdu_before.len(), "{:?}", of);
        prop_assert!(form == form_before || pdu == pdu_before || *form == Form::Redacted);
    }
    for (event_id, state) in &after.states {
        prop_assert_eq!(state, &before.states[event_id], "state after {}", event_id);
    }
    // Every event that it follows is removed, whatever its depth.
    let mut behind: Vec<&str> = prev_events(&world, &chosen.event_id);
    let mut seen = BTreeSet::new();
    while let Some(event_id) = behind.pop() {
        if seen.insert(event_id) && !extremities.contains(event_id) {
            prop_assert!(!after.states.contains_key(event_id), "{} is still stored", event_id);
            behind.extend(prev_events(&world, event_id));
        }
    }

    for (outcome, delivery) in deliver(&memory, &world).iter().zip(&world.deliveries) {
        let came_back = match outcome {
            Outcome::Appended { duplicate, .. } => !duplicate,
            Outcome::Purged { .. } => false,
            Outcome::Refused { .. } => true,
        };
        prop_assert!(!came_back, "{} returned", delivery.event.event_id);
    }
    prop_assert_eq!(picture(&memory, &world), after);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    prop_assert_eq!(purge(&memory, &world, &chosen.event_id).to_purge, 0);
    Ok(())
}

fn prev_events<'w>(world: &'w World, event_id: &str) -> Vec<&'w str> {
    let placed = world.deliveries.iter().filter(|it| !it.outlier);
    let by_id: BTreeMap<&str, &str> =
        placed.map(|it| (it.event.event_id.as_str(), it.event.pdu.as_str())).collect();
    let Some(pdu) = by_id.get(event_id) else { return Vec::new() };
    let version = world.room.known_version();
    let read = backscroll::pdu::Event::read(pdu.as_bytes(), version, event_id).unwrap();
    let prev = read.prev_events().iter().map(|it| it.as_str().to_owned());
    prev.filter_map(|it| by_id.get_key_value(it.as_str()).map(|it| *it.0)).collect()
}

#[test]
fn purged_events_are_removed_and_do_not_return() {
    for version in VERSIONS {
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 600,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = (worlds::history(STEPS), any::<Index>()).prop_map(|it| (it.0.0, it.1));
        TestRunner::new(config).run(&strategy, |(steps, pick)| run(version, &steps, pick)).unwrap();
    }
}

#[test]
fn a_deleted_room_does_not_return_unless_it_may() {
    let memory = Memory::new();
    let world = World::new(RoomVersion::V10, &[]);
    let room_id = &world.room.room_id;
    let store = &memory.cx.store;
    deliver(&memory, &world);
    let before = picture(&memory, &world);

    let deleted = store.delete_room(room_id).unwrap().unwrap();
    assert!(matches!(answers::room(&memory.cx, room_id), Err(QueryError::RoomUnknown(_))));
    let purged = |it: &Outcome| matches!(it, Outcome::Purged { .. });
    assert!(deliver(&memory, &world).iter().all(purged));
    while store.remove_deleted(deleted).unwrap() > 0 {}
    assert_eq!(store.deleted_rooms().unwrap(), []);
    assert!(deliver(&memory, &world).iter().all(purged));
    assert_eq!(store.delete_room(room_id).unwrap(), None);
    assert_eq!(store.rooms(None, 9).unwrap(), []);

    assert!(store.forget_deleted_room(room_id).unwrap());
    deliver(&memory, &world);
    assert_eq!(picture(&memory, &world), before);
    assert_eq!(faults::of(&memory.cx.store), []);
    assert!(!store.is_deleted(room_id).unwrap());
}
