//! No response contains an event of another room, although events of another room are named as
//! predecessors, authorisation, given state, targets of redactions, and in requests. A room in a store
//! with other rooms is the same as in a store of its own.
//!
//! In room version 1 servers choose the ids of their events: here both rooms have the same ids.

use std::collections::BTreeSet;

use backscroll::{
    ingest::{self, NewEvent, Outcome, Verdict},
    pdu::RoomVersion,
    query::{
        Asker, Backfill, BatchGetEvents, ExplainAccess, GetMissingEvents, GetState, PageRequest,
    },
};
use backscroll_testkit::{Event, Room};
use proptest::{
    prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq},
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::{Value, json};

use crate::support::{
    answers::{self, Answer, Question, State, Summary},
    events::RoomExt as _,
    memory::Memory,
};

const VERSIONS: [RoomVersion; 3] = [RoomVersion::V1, RoomVersion::V6, RoomVersion::V12];
/// One case of this test is as much work as this number of cases of a usual property.
const WEIGHT: u32 = 10;
const ALICE: &str = "@alice:one.example";

/// An event to be made. Each index selects one of all events made so far, in both rooms.
#[derive(Clone, Debug)]
struct Step {
    /// Whether the event is in the second room.
    second: bool,
    /// 0 for a message, 1 for a state event, 2 for a redaction.
    kind: u8,
    after: Vec<Index>,
    authorised_by: Vec<Index>,
    target: Index,
    state_after: Vec<Index>,
    verdict: (bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let picks = |most| prop::collection::vec(any::<Index>(), 0..most);
    let some = prop::bool::weighted(0.15);
    (any::<bool>(), 0u8..3, picks(4), picks(3), any::<Index>(), picks(4), (some, some)).prop_map(
        |(second, kind, after, authorised_by, target, given, verdict)| {
            let state_after = if given.len() < 3 { vec![] } else { given };
            Step { second, kind, after, authorised_by, target, state_after, verdict }
        },
    )
}

/// An event of one of the rooms, as it is appended.
struct ToAppend {
    second: bool,
    event: Event,
    verdict: Verdict,
    outlier: bool,
    state_after: Vec<String>,
}

struct Rooms {
    rooms: [Room; 2],
    to_append: Vec<ToAppend>,
}

impl Rooms {
    fn new(version: RoomVersion, steps: &[Step]) -> Self {
        let (first, create_first) = Room::named(version, ALICE, "first");
        let (second, create_second) = Room::named(version, ALICE, "second");
        let mut it = Self { rooms: [first, second], to_append: Vec::new() };
        for (second, create) in [(false, create_first), (true, create_second)] {
            let joined = it.room(second).member(ALICE, ALICE, "join").after([&create]);
            // From room version 12 on, auth_events do not name the create event.
            let named = (version != RoomVersion::V12).then(|| create.event_id.clone());
            let joined = joined.authorised_by(named).finish();
            it.add(second, create);
            it.add(second, joined);
        }
        steps.iter().for_each(|step| it.step(step));
        it
    }

    fn room(&self, second: bool) -> &Room {
        &self.rooms[usize::from(second)]
    }

    fn add(&mut self, second: bool, event: Event) {
        let verdict = Verdict::Accepted;
        self.to_append.push(ToAppend {
            second,
            event,
            verdict,
            outlier: false,
            state_after: vec![],
        });
    }

    fn step(&mut self, step: &Step) {
        let Step { second, kind, after, authorised_by, target, state_after, verdict } = step;
        let id = |it: &Index| it.get(&self.to_append).event.event_id.clone();
        let room = self.room(*second);
        let draft = match kind {
            0 => room.message(ALICE, "what was said"),
            1 => room.state(ALICE, "m.room.topic", "", json!({"topic": "a topic"})),
            _ => room.redaction(ALICE, &id(target)),
        };
        let own = self.to_append.iter().rev().find(|it| it.second == *second).unwrap();
        let ids: BTreeSet<String> = after.iter().map(id).collect();
        // One predecessor of its own room gives the depth; the others are named by their ids.
        let named = ids.into_iter().filter(|it| *it != own.event.event_id);
        let draft = named.fold(draft.after([&own.event]), |draft, it| draft.after_id(&it));
        let own_create = room.room_id.replacen('!', "$", 1);
        let authorised_by = authorised_by.iter().map(id).filter(|it| *it != own_create);
        let event = draft.authorised_by(authorised_by).finish();
        let given: BTreeSet<String> = state_after.iter().map(id).collect();
        let (outlier, rejected) = *verdict;
        let verdict = Verdict::of_flags(rejected, false);
        let state_after = given.into_iter().collect();
        self.to_append.push(ToAppend { second: *second, event, verdict, outlier, state_after });
    }

    /// Appends the events of one room or of both. Returns those that were refused, such as one whose
    /// given state has two events for one key.
    fn deliver(&self, memory: &Memory, order: &[usize], only: Option<bool>) -> Vec<(bool, String)> {
        let mut refused = Vec::new();
        for at in order {
            let ToAppend { second, event, verdict, outlier, state_after } = &self.to_append[*at];
            if only.is_some_and(|it| it != *second) {
                continue;
            }
            let arrival = Some(i64::try_from(*at).unwrap());
            let accepted = self.room(*second).accepted(event);
            let (verdict, outlier) = (*verdict, *outlier);
            let event = NewEvent { verdict, outlier, state_after, arrival, ..accepted };
            match ingest::append_unflushed(&memory.cx, &event).unwrap() {
                Outcome::Appended { .. } => {}
                other => refused.push((*second, format!("{other:?}"))),
            }
        }
        refused
    }

    fn ids(&self) -> Vec<String> {
        self.to_append.iter().map(|it| it.event.event_id.clone()).collect()
    }
}

/// The results of all queries about a room.
#[derive(Debug, PartialEq)]
struct Picture {
    answers: Vec<Answer>,
    states: Vec<Option<State>>,
    summary: Summary,
    events: Vec<(String, Vec<u8>)>,
}

fn picture(memory: &Memory, rooms: &Rooms, second: bool) -> Picture {
    let room_id = rooms.room(second).room_id.clone();
    let (ids, cx) = (rooms.ids(), &memory.cx);
    let server = "one.example".to_owned();
    let askers =
        [Asker::Internal, Asker::Server { origin: server.clone(), destination: server.clone() }];
    let mut answers = Vec::new();
    for asker in askers {
        for some in ids.chunks(3) {
            answers.push(Question::Backfill(Backfill {
                room_id: room_id.clone(),
                asker: asker.clone(),
                event_ids: some.to_vec(),
                limit: Some(100),
            }));
            answers.push(Question::MissingEvents(GetMissingEvents {
                room_id: room_id.clone(),
                asker: asker.clone(),
                earliest_events: ids.iter().take(2).cloned().collect(),
                latest_events: some.to_vec(),
                limit: Some(20),
                min_depth: 0,
            }));
        }
    }
    let state = |it: &String| {
        let (event_id, page) = (it.clone(), PageRequest::first(9));
        let asked = answers::ask(cx, &GetState { room_id: room_id.clone(), event_id, page });
        asked.is_ok().then(|| answers::state(cx, &room_id, it))
    };
    let listed = answers::events(cx, &room_id);
    let batch = BatchGetEvents { room_id: room_id.clone(), event_ids: ids.clone() };
    let asked = answers::ask(cx, &batch).unwrap().events;
    let explained = ids.iter().map(|it| {
        let question = ExplainAccess {
            room_id: room_id.clone(),
            event_id: it.clone(),
            origin: server.clone(),
            destination: server.clone(),
        };
        let asked = answers::ask(cx, &question);
        (it.clone(), format!("{:?}", asked.ok()).into_bytes())
    });
    let events = listed.into_iter().chain(asked).map(|it| (it.event_id, it.pdu.to_vec()));
    Picture {
        answers: answers.iter().map(|it| it.ask(cx)).collect(),
        states: ids.iter().map(state).collect(),
        summary: answers::summary(cx, &room_id),
        events: events.chain(explained).collect(),
    }
}

fn check(version: RoomVersion, steps: &[Step], order: &[usize]) -> Result<(), TestCaseError> {
    let rooms = Rooms::new(version, steps);
    let together = Memory::new();
    let mut refused = rooms.deliver(&together, order, None);
    for second in [false, true] {
        let alone = Memory::new();
        let refused_alone = rooms.deliver(&alone, order, Some(second));
        let of_this = refused.extract_if(.., |it| it.0 == second).collect::<Vec<_>>();
        prop_assert_eq!(of_this, refused_alone);
        let found = picture(&together, &rooms, second);
        prop_assert_eq!(&found, &picture(&alone, &rooms, second));
        let room_id = &rooms.room(second).room_id;
        for (event_id, _, pdu) in found.answers.iter().flatten().flat_map(|it| &it.events) {
            let pdu: Value = serde_json::from_slice(pdu).unwrap();
            // From room version 12 on, the room's id is the hash of the create event.
            let of = pdu["room_id"].as_str().map_or(event_id.replacen('$', "!", 1), Into::into);
            prop_assert_eq!(&of, room_id);
        }
        let served = found.answers.iter().flatten().any(|it| !it.events.is_empty());
        prop_assert!(served, "some event is served");
    }
    Ok(())
}

#[test]
fn a_room_among_others_is_the_same_as_alone() {
    for version in VERSIONS {
        let config = Config {
            cases: (Config::default().cases / WEIGHT).max(1),
            max_shrink_iters: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let strategy = prop::collection::vec(step(), 1..14).prop_flat_map(|steps| {
            // The create events and the joins precede the steps.
            let order: Vec<usize> = (0..steps.len() + 4).collect();
            (Just(steps), Just(order).prop_shuffle())
        });
        TestRunner::new(config)
            .run(&strategy, |(steps, order)| check(version, &steps, &order))
            .unwrap();
    }
}
