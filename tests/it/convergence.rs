//! The order in which events are appended does not matter: in reverse, shuffled, or with repetitions, a
//! room ends with the same responses, states, extremities and counts as in order.
//!
//! Each event keeps its `arrival` number. It breaks ties of equal depth, and decides which power levels
//! were in force when a redaction arrived.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use backscroll::{
    ingest::{self, NewEvent, Outcome, Replace, Verdict},
    pdu::RoomVersion,
    store::View as _,
};
use backscroll_testkit::Room;
use proptest::{
    prelude::{Just, Strategy, prop, prop_assert_eq},
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::json;

use crate::support::{
    answers::{self, Answer, Question, Served, State, Summary},
    events::RoomExt as _,
    memory::Memory,
    rooms::{self, RecordedRoom},
};

/// One random order of a room is as much work as this number of cases of a usual property. There are 36
/// rooms.
const WEIGHT: u32 = 32;

/// A room and its results when its events are appended in order.
struct Reference {
    room: RecordedRoom,
    questions: Vec<Question>,
    truth: Truth,
}

/// The results that must not depend on the order of the events.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    answers: Vec<Answer>,
    states: BTreeMap<String, State>,
    summary: Summary,
}

static REFERENCES: LazyLock<Vec<Reference>> =
    LazyLock::new(|| rooms::bundled().into_iter().map(Reference::new).collect());

impl Reference {
    fn new(room: RecordedRoom) -> Self {
        let question = |it| Question::recorded(&room.header.room_id, it);
        let questions: Vec<Question> = room.requests.iter().map(question).collect();
        let in_order: Vec<usize> = (0..room.lines.len()).collect();
        let truth = deliver(&room, &questions, &in_order, &[]);
        Self { room, questions, truth }
    }

    /// Checks that the room is the same when its events are appended in this order, some repeatedly.
    fn check(&self, deliveries: &[usize]) -> Result<(), TestCaseError> {
        self.compare(&deliver(&self.room, &self.questions, deliveries, &[]))
    }

    /// Compares results with those of the room in order.
    fn compare(&self, found: &Truth) -> Result<(), TestCaseError> {
        let Truth { answers, states, summary } = &self.truth;
        for ((question, expected), found) in self.questions.iter().zip(answers).zip(&found.answers)
        {
            if found != expected {
                let text = format!("{question:?}: {}", difference(expected, found));
                return Err(TestCaseError::fail(format!("{}: {text}", self.room.name)));
            }
        }
        for (event_id, expected) in states {
            if found.states[event_id] != *expected {
                let text = format!("state after {event_id}: {:?}", found.states[event_id]);
                let text = format!("{}: {text} instead of {expected:?}", self.room.name);
                return Err(TestCaseError::fail(text));
            }
        }
        if found.summary != *summary {
            let text = format!("{}: {:?} not {summary:?}", self.room.name, found.summary);
            return Err(TestCaseError::fail(text));
        }
        Ok(())
    }
}

/// Another verdict on an event.
#[derive(Clone, Copy, Debug)]
struct OtherVerdict {
    /// The index of the event in the file.
    at: usize,
    verdict: Verdict,
}

/// Appends events of a room, given by their indexes in the file, and runs all queries. Before that, gives
/// some events another verdict, one after the other, and then all of them their own again.
fn deliver(
    room: &RecordedRoom,
    questions: &[Question],
    deliveries: &[usize],
    others: &[OtherVerdict],
) -> Truth {
    let memory = Memory::new();
    let room_id = &room.header.room_id;
    let mut came = BTreeSet::new();
    for at in deliveries {
        let line = &room.lines[*at];
        let arrival = Some(i64::try_from(*at).unwrap());
        let event = NewEvent { arrival, ..NewEvent::of_line(&room.header, line) };
        match ingest::append_unflushed(&memory.cx, &event).unwrap() {
            Outcome::Appended { duplicate, .. } => assert_eq!(duplicate, !came.insert(*at)),
            refused @ (Outcome::Purged { .. } | Outcome::Refused { .. }) => {
                panic!("{}: {refused:?}", room.name)
            }
        }
    }
    let replace = |at: usize, other: Option<Verdict>| {
        let event = NewEvent::of_line(&room.header, &room.lines[at]);
        let verdict = other.unwrap_or(event.verdict);
        let event = NewEvent { verdict, replace: Replace::Changed, ..event };
        let outcome = ingest::append_unflushed(&memory.cx, &event).unwrap();
        assert!(matches!(outcome, Outcome::Appended { .. }), "{}: {outcome:?}", room.name);
    };
    for OtherVerdict { at, verdict } in others {
        replace(*at, Some(*verdict));
        ingest::settle_waiting(&memory.cx.store, room_id).unwrap();
    }
    others.iter().for_each(|it| replace(it.at, None));
    ingest::settle_waiting(&memory.cx.store, room_id).unwrap();
    for user_id in &room.header.erased_users {
        memory.cx.store.set_erased(user_id, true).unwrap();
    }
    let ids = room.lines.iter().map(|it| it.event_id.as_str()).chain([""]);
    Truth {
        answers: questions.iter().map(|it| it.ask(&memory.cx)).collect(),
        states: ids.map(|it| (it.to_owned(), answers::state(&memory.cx, room_id, it))).collect(),
        summary: answers::summary(&memory.cx, room_id),
    }
}

/// Describes the difference of two results in a few words.
fn difference(expected: &Answer, found: &Answer) -> String {
    let words = |answer: &Answer| match answer {
        Err(refusal) => refusal.clone(),
        Ok(Served { events, end, missing_event_ids, visited }) => {
            let events: Vec<String> =
                events.iter().map(|it| format!("{} {:?}", it.0, it.1)).collect();
            format!("{events:?} {end:?} {missing_event_ids:?} {visited}")
        }
    };
    format!("expected {}, found {}", words(expected), words(found))
}

/// Indexes in any order, each at least once.
fn any_order(events: usize) -> impl Strategy<Value = Vec<usize>> {
    let repeated = prop::collection::vec(0..events, 0..=events / 2);
    repeated
        .prop_map(move |repeated| (0..events).chain(repeated).collect())
        .prop_flat_map(|deliveries: Vec<usize>| Just(deliveries).prop_shuffle())
}

#[test]
fn a_room_appended_in_reverse_is_the_same() {
    for reference in REFERENCES.iter() {
        let deliveries: Vec<usize> = (0..reference.room.lines.len()).rev().collect();
        reference.check(&deliveries).unwrap();
    }
}

#[test]
fn a_room_appended_twice_is_the_same() {
    for reference in REFERENCES.iter() {
        let events = 0..reference.room.lines.len();
        let deliveries: Vec<usize> = events.clone().chain(events).collect();
        reference.check(&deliveries).unwrap();
    }
}

#[test]
fn a_room_appended_in_any_order_with_repetitions_is_the_same() {
    for reference in REFERENCES.iter() {
        // A smaller example is worth some time, but not hours.
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 200,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&any_order(reference.room.lines.len()), |deliveries| reference.check(&deliveries))
            .unwrap();
    }
}

/// Each event of a room gets another verdict and its own again, several at a time.
#[test]
fn verdicts_that_changed_and_changed_back_leave_no_trace() {
    for reference in REFERENCES.iter() {
        let room = &reference.room;
        let events = 0..room.lines.len();
        const VERDICTS: [Verdict; 3] = [Verdict::Rejected, Verdict::SoftFailed, Verdict::Accepted];
        let other = (events.clone(), prop::sample::select(&VERDICTS[..]))
            .prop_map(|(at, verdict)| OtherVerdict { at, verdict });
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 200,
            failure_persistence: None,
            ..Config::default()
        };
        let in_order: Vec<usize> = events.collect();
        TestRunner::new(config)
            .run(&prop::collection::vec(other, 1..8), |others| {
                let mut truth = deliver(room, &reference.questions, &in_order, &others);
                if truth.summary.state_count.is_none() {
                    // No former state decides about access.
                    truth.answers.clone_from(&reference.truth.answers);
                }
                reference.compare(&truth)
            })
            .unwrap();
    }
}

/// A user left, was invited and joined again; the invitation arrives last, as an outlier. If states were
/// resolved without it, the user would not be a member.
#[test]
fn states_wait_for_the_events_that_authorise_their_entries() {
    let is_it = |it: &&Reference| it.room.name == "visibility-v10-seen-by-hs2";
    let reference = REFERENCES.iter().find(is_it).unwrap();
    let invitation = 22;
    assert!(reference.room.lines[invitation].outlier);
    let events = 0..reference.room.lines.len();
    let others = events.filter(|it| *it != invitation);
    reference.check(&others.chain([invitation]).collect::<Vec<_>>()).unwrap();
}

/// Alice demotes Bob. A soft-failed event of Mallory makes Bob a moderator again, and a redaction by Bob
/// follows it; another redaction by Bob follows an event before the demotion. Neither has an effect, in
/// any order of the events.
#[test]
fn power_from_a_soft_failed_event_or_from_the_past_redacts_nothing() {
    const ALICE: &str = "@alice:one.example";
    const BOB: &str = "@bob:two.example";
    for version in [RoomVersion::V3, RoomVersion::V10, RoomVersion::V12] {
        let (room, create) = Room::new(version, ALICE);
        let levels = |sender: &str, bob: i64| {
            let users = if version == RoomVersion::V12 {
                json!({BOB: bob})
            } else {
                json!({ALICE: 100, BOB: bob})
            };
            room.state(sender, "m.room.power_levels", "", json!({"users": users, "redact": 50}))
        };
        let join = room.member(ALICE, ALICE, "join").after([&create]).finish();
        let granted = levels(ALICE, 50).after([&join]).finish();
        let joined = room.member(BOB, BOB, "join").after([&granted]).finish();
        let said = room.message(ALICE, "what was said").after([&joined]).finish();
        let demoted = levels(ALICE, 0).after([&said]).finish();
        let soft_failed = levels(BOB, 50).after([&said]).finish();
        let by_soft_failed = room.redaction(BOB, &said.event_id).after([&soft_failed]).finish();
        let by_the_past = room.redaction(BOB, &said.event_id).after([&said]).finish();
        let last = room.message(ALICE, "good night").after([&demoted]).finish();
        let events = [
            create,
            join,
            granted,
            joined,
            said.clone(),
            demoted,
            soft_failed.clone(),
            by_soft_failed,
            by_the_past,
            last,
        ];
        let orders = Just((0..events.len()).collect::<Vec<_>>()).prop_shuffle();
        let is_redacted = |order: &[usize], until: i64| {
            let memory = Memory::new();
            for at in order {
                let event = &events[*at];
                let arrival = i64::try_from(*at).unwrap();
                let is_soft_failed = event.event_id == soft_failed.event_id;
                let verdict = Verdict::of_flags(false, is_soft_failed);
                // An event that is backfilled is not judged by later power levels.
                let arrival = if arrival == 8 { until } else { arrival };
                let event = NewEvent { arrival: Some(arrival), verdict, ..room.accepted(event) };
                ingest::append_unflushed(&memory.cx, &event).unwrap();
            }
            let store = &memory.cx.store;
            let number = store.room_num(&room.room_id).unwrap().unwrap();
            let event = store.event_num(number, &said.event_id).unwrap().unwrap();
            let flags = store.topology(number).node(event).unwrap().unwrap().flags;
            (flags.redacted, flags.redaction_pending)
        };
        let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&orders, |order| {
                prop_assert_eq!(is_redacted(&order, 8), (false, false));
                prop_assert_eq!(is_redacted(&order, -1), (true, false));
                Ok(())
            })
            .unwrap();
    }
}
