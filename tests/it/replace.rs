//! After any replacements of verdicts and bytes, a room is as if the final ones had been appended from the
//! start: on random rooms and on recorded ones.

use std::collections::BTreeSet;

use backscroll::{
    access::AccessRefusal,
    ingest::{self, NewEvent, NotesLeft, Outcome, Refusal, Replace, Verdict},
    pdu::{Pdu, RoomVersion},
    query::{Asker, Backfill, QueryError},
    store::{Deriving as _, NotServedReason, View as _},
};
use backscroll_testkit::{Event, Room};
use proptest::{
    prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::{Value, json};

use crate::support::{
    answers,
    events::{DraftExt as _, RoomExt as _},
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
    /// Whether all work that is left is done afterwards, and the store is verified.
    is_verified: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let verdict = prop_oneof![
        1 => Just(None),
        2 => Just(Some(Verdict::Accepted)),
        2 => Just(Some(Verdict::SoftFailed)),
        4 => Just(Some(Verdict::Rejected)),
    ];
    (any::<Index>(), verdict, any::<[bool; 3]>(), 0usize..3).prop_map(
        |(event, verdict, [pruned, at_first, is_verified], turns)| Change {
            event,
            verdict,
            pruned,
            at_first,
            turns,
            is_verified,
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
        if change.is_verified {
            settle(&memory, &world.room.room_id);
            prop_assert_eq!(faults::of(&memory.cx.store), []);
        }
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

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";

/// A room with a topic, and Bob, who has a display name.
struct Small {
    memory: Memory,
    room: Room,
    joined: Event,
    topic: Event,
}

impl Small {
    fn new(version: RoomVersion) -> Self {
        let (room, create) = Room::new(version, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]).finish();
        let rules = json!({"join_rule": "public"});
        let rules = room.state(ALICE, "m.room.join_rules", "", rules).after([&join]).finish();
        let content = json!({"membership": "join", "displayname": "Bob"});
        let joined =
            room.member(BOB, BOB, "join").with("content", content).after([&rules]).finish();
        let topic = room.state(ALICE, "m.room.topic", "", json!({"topic": "a secret"}));
        let topic = topic.after([&joined]).finish();
        let memory = Memory::new();
        for event in [&create, &join, &rules, &joined, &topic] {
            append(&memory, &room.accepted(event));
        }
        Self { memory, room, joined, topic }
    }

    fn replace(&self, event: &Event, pdu: &[u8], replace: Replace) -> Outcome {
        append(&self.memory, &NewEvent { pdu, replace, ..self.room.accepted(event) })
    }

    fn stored(&self, event: &Event) -> Vec<u8> {
        let store = &self.memory.cx.store;
        let number = store.room_num(&self.room.room_id).unwrap().unwrap();
        let event = store.event_num(number, &event.event_id).unwrap().unwrap();
        store.body(number, event).unwrap().pdu.to_vec()
    }

    fn is_deriving(&self) -> bool {
        let store = &self.memory.cx.store;
        store.is_deriving(store.room_num(&self.room.room_id).unwrap().unwrap()).unwrap()
    }

    fn pruned(&self, event: &Event) -> Vec<u8> {
        let pdu = Pdu::parse(event.pdu.as_bytes(), self.room.known_version()).unwrap();
        pdu.redacted().unwrap().bytes_as_received().to_vec()
    }
}

fn signed_again(pdu: &[u8]) -> Vec<u8> {
    let mut pdu: Value = serde_json::from_slice(pdu).unwrap();
    pdu["signatures"]["one.example"]["ed25519:again"] = json!("c2lnbmVk");
    pdu.to_string().into_bytes()
}

fn is_replaced(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Appended { replaced: true, duplicate: false, .. })
}

fn is_duplicate(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Appended { replaced: false, duplicate: true, .. })
}

fn is_conflict(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { refusal: Refusal::Conflict(_), .. })
}

#[test]
fn pruned_and_signed_again_without_deriving_anything() {
    for version in VERSIONS {
        let small = Small::new(version);
        for event in [&small.joined, &small.topic] {
            let pruned = small.pruned(event);
            assert!(is_conflict(&small.replace(event, &pruned, Replace::Never)));
            assert!(is_replaced(&small.replace(event, &pruned, Replace::Changed)));
            assert_eq!(small.stored(event), pruned, "{version}");
            assert!(is_duplicate(&small.replace(event, &pruned, Replace::Changed)));
            // A redacted form stays redacted, but takes other signatures.
            let whole = event.pdu.as_bytes();
            assert!(is_duplicate(&small.replace(event, whole, Replace::Changed)));
            let signed = signed_again(whole);
            assert!(is_replaced(&small.replace(event, &signed, Replace::Changed)));
            let text = String::from_utf8(small.stored(event)).unwrap();
            assert!(text.contains("ed25519:again") && !text.contains("secret"), "{text}");
            assert!(!text.contains("displayname"), "{text}");
            assert!(is_replaced(&small.replace(event, &signed, Replace::All)));
            assert_eq!(small.stored(event), signed, "{version}");
            assert!(!small.is_deriving(), "{version}");
        }
        assert_eq!(faults::of(&small.memory.cx.store), []);
    }
}

#[test]
fn another_event_and_an_unreadable_one_are_not_replaced() {
    let small = Small::new(RoomVersion::V1);
    let said = small.room.message(ALICE, "hello").after([&small.topic]).finish();
    append(&small.memory, &small.room.accepted(&said));
    let mut other: Value = serde_json::from_str(&said.pdu).unwrap();
    other["depth"] = json!(77);
    let other = other.to_string();
    for replace in [Replace::Changed, Replace::All] {
        assert!(is_conflict(&small.replace(&said, other.as_bytes(), replace)));
        let broken = other.replace("77", "-77");
        assert!(is_conflict(&small.replace(&said, broken.as_bytes(), replace)));
        let outlier = NewEvent { outlier: true, replace, ..small.room.accepted(&said) };
        assert!(is_conflict(&append(&small.memory, &outlier)));
    }
    assert_eq!(small.stored(&said), said.pdu.as_bytes());
    assert_eq!(faults::of(&small.memory.cx.store), []);
}

/// Redactions of an unreadable event are not judged, so one that is withdrawn changes nothing.
#[test]
fn a_redaction_of_an_unreadable_event_is_withdrawn() {
    for version in VERSIONS {
        let small = Small::new(version);
        let said = small
            .room
            .message(ALICE, "hello")
            .after([&small.topic])
            .unreadable(|it| it.replacen("\"content\":{", "\"content\":7,\"was\":{", 1));
        append(&small.memory, &small.room.accepted(&said));
        let redactions = [ALICE, BOB].map(|it| {
            let redaction = small.room.redaction(it, &said.event_id);
            let redaction = redaction.after([&small.topic]).finish();
            append(&small.memory, &small.room.accepted(&redaction));
            redaction
        });
        let accepted = small.room.accepted(&redactions[0]);
        for verdict in [Verdict::Rejected, Verdict::Accepted] {
            append(&small.memory, &NewEvent { verdict, replace: Replace::Changed, ..accepted });
            settle(&small.memory, &small.room.room_id);
            assert_eq!(faults::of(&small.memory.cx.store), [], "{version}");
        }
    }
}

/// The room is not served from the moment when a rejection changes until all states have followed.
#[test]
fn a_room_is_not_served_while_states_are_derived_again() {
    let small = Small::new(RoomVersion::V10);
    let ask = || {
        let question = Backfill {
            room_id: small.room.room_id.clone(),
            asker: Asker::Server {
                origin: "two.example".to_owned(),
                destination: "one.example".to_owned(),
            },
            event_ids: vec![small.topic.event_id.clone()],
            limit: Some(1),
        };
        answers::ask(&small.memory.cx, &question).map(|it| it.events.len())
    };
    assert!(matches!(ask(), Ok(1)));
    let joined = small.room.accepted(&small.joined);
    let rejected = NewEvent { verdict: Verdict::Rejected, replace: Replace::Changed, ..joined };
    assert!(is_replaced(&append(&small.memory, &rejected)));
    assert!(matches!(ask(), Err(QueryError::NotServed(NotServedReason::Deriving))));
    settle(&small.memory, &small.room.room_id);
    assert!(matches!(ask(), Err(QueryError::NotAllowed(AccessRefusal::OriginNotJoined))));
    let accepted = NewEvent { replace: Replace::Changed, ..joined };
    assert!(is_replaced(&append(&small.memory, &accepted)));
    settle(&small.memory, &small.room.room_id);
    assert!(matches!(ask(), Ok(1)));
}
