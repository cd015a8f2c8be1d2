//! After any replacements of verdicts and bytes, a room is as if the final ones had been appended from the
//! start: on random rooms and on recorded ones.

use std::collections::BTreeSet;

use backscroll::{
    ingest::{self, NewEvent, NotesLeft, Outcome, Replace, Verdict},
    pdu::{Pdu, RoomVersion},
    store::{Deriving as _, View as _},
};
use proptest::{
    prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::support::{
    events::RoomExt as _,
    faults,
    memory::Memory,
    pictures::{Picture, deliver, picture},
    worlds::{self, Delivery, Step, World},
};

const VERSIONS: [RoomVersion; 4] =
    [RoomVersion::V1, RoomVersion::V2, RoomVersion::V10, RoomVersion::V12];
/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 16;
const STEPS: usize = 24;

/// A replacement that is made, and undone later.
#[derive(Clone, Debug)]
struct Change {
    event: Index,
    verdict: Option<Verdict>,
    /// Whether only the redacted form is appended.
    pruned: bool,
    /// Whether it is appended like that at first, and not replaced after the others.
    at_first: bool,
    /// Turns of the backlog that are taken afterwards.
    turns: usize,
}

fn change() -> impl Strategy<Value = Change> {
    let verdict = prop_oneof![
        1 => Just(None),
        2 => Just(Some(Verdict::Accepted)),
        2 => Just(Some(Verdict::SoftFailed)),
        4 => Just(Some(Verdict::Rejected)),
    ];
    (any::<Index>(), verdict, any::<bool>(), any::<bool>(), 0usize..3).prop_map(
        |(event, verdict, pruned, at_first, turns)| Change {
            event,
            verdict,
            pruned,
            at_first,
            turns,
        },
    )
}

/// The redacted form of an event; `None` of one that it does not leave as it is: an unreadable one, or a
/// redaction, which would not name its target any more.
fn redacted(delivery: &Delivery, version: RoomVersion) -> Option<Vec<u8>> {
    let pdu = Pdu::parse(delivery.event.pdu.as_bytes(), version).ok()?;
    let is_redaction = pdu.redacts().is_some();
    Some(pdu.redacted().ok()?.bytes_as_received().to_vec()).filter(|_| !is_redaction)
}

fn append(memory: &Memory, event: &NewEvent<'_>) -> Outcome {
    ingest::append_unflushed(&memory.cx, event).unwrap()
}

/// Appends the event of a change in its changed form.
fn append_changed(memory: &Memory, world: &World, delivery: &Delivery, change: &Change) {
    let pruned = redacted(delivery, world.room.known_version()).filter(|_| change.pruned);
    let whole = delivery.new_event(&world.room);
    let event = NewEvent {
        pdu: pruned.as_deref().unwrap_or(whole.pdu),
        verdict: change.verdict.unwrap_or(whole.verdict),
        replace: Replace::All,
        ..whole
    };
    let outcome = append(memory, &event);
    // An event that was placed does not become an outlier.
    let is_refused = matches!(outcome, Outcome::Refused { .. });
    assert!(delivery.outlier || !is_refused, "{outcome:?}");
    for _ in 0..change.turns {
        ingest::work_off(&memory.cx).unwrap();
    }
}

fn settle(memory: &Memory, room_id: &str) {
    ingest::settle_waiting(&memory.cx.store, room_id).unwrap();
    while ingest::work_off(&memory.cx).unwrap() != NotesLeft::None {}
    let store = &memory.cx.store;
    let number = store.room_num(room_id).unwrap().unwrap();
    assert!(!store.is_deriving(number).unwrap(), "the room is served again");
}

/// The part of a picture that does not depend on what was known in between: while the current state is not
/// known, access is decided by former ones.
fn lasting(mut picture: Picture) -> Picture {
    if picture.summary.state_count.is_none() {
        picture.served.retain(|of, _| of.0.is_empty());
    }
    picture
}

fn run(version: RoomVersion, steps: &[Step], changes: &[Change]) -> Result<(), TestCaseError> {
    let world = World::new(version, steps);
    let fresh = Memory::new();
    deliver(&fresh, &world);
    let expected = lasting(picture(&fresh, &world));

    let memory = Memory::new();
    let at = |it: &Change| it.event.index(world.deliveries.len());
    for (index, delivery) in world.deliveries.iter().enumerate() {
        match changes.iter().find(|it| it.at_first && at(it) == index) {
            Some(change) => append_changed(&memory, &world, delivery, change),
            None => drop(append(&memory, &delivery.new_event(&world.room))),
        }
    }
    for change in changes.iter().filter(|it| !it.at_first) {
        append_changed(&memory, &world, &world.deliveries[at(change)], change);
    }
    let changed: BTreeSet<usize> = changes.iter().map(at).collect();
    // An event may be delivered twice: the last delivery decides.
    let ids: BTreeSet<&str> =
        changed.iter().map(|it| world.deliveries[*it].event.event_id.as_str()).collect();
    for delivery in &world.deliveries {
        if ids.contains(delivery.event.event_id.as_str()) {
            let event = delivery.new_event(&world.room);
            append(&memory, &NewEvent { replace: Replace::All, ..event });
        }
    }
    settle(&memory, &world.room.room_id);
    prop_assert_eq!(faults::of(&memory.cx.store), []);
    let found = lasting(picture(&memory, &world));
    prop_assert_eq!(&found.summary, &expected.summary);
    for (event_id, state) in &expected.states {
        prop_assert_eq!(&found.states[event_id], state, "state after {}", event_id);
    }
    for (of, served) in &expected.served {
        prop_assert_eq!(found.served.get(of), Some(served), "{:?}", of);
    }
    prop_assert!(found == expected);
    Ok(())
}

#[test]
fn replacements_that_are_undone_leave_no_trace() {
    for version in VERSIONS {
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 2_000,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = (worlds::history(STEPS), prop::collection::vec(change(), 1..6));
        TestRunner::new(config)
            .run(&strategy, |((steps, _), changes)| run(version, &steps, &changes))
            .unwrap();
    }
}
