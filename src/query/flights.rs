//! Round trips of questions and appends, counted with an engine that counts them as one behind a
//! network does.

use backscroll_testkit::{Draft, Event, Room};
use serde_json::json;

use super::{Asker, Backfill, GetMissingEvents, GetState, PageRequest, Question, answer};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{NewEvent, Outcome, append_all},
    pdu::RoomVersion,
    store::Store,
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";

/// A room in an engine that counts.
struct FlightRoom {
    cx: Context,
    room: Room,
    auth: Vec<String>,
    events: Vec<Event>,
}

impl FlightRoom {
    /// A room with an access control list, and a history visibility.
    fn new(history_visibility: &str) -> Self {
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let cx = Context::new(Store::counting_flights());
        let auth = vec![create.event_id.clone()];
        let mut counted = Self { cx, room, auth, events: Vec::new() };
        counted.add(vec![create]);
        let join = counted.finish(counted.room.member(ALICE, ALICE, "join"));
        counted.auth.push(join.event_id.clone());
        counted.add(vec![join]);
        let join = counted.finish(counted.room.member(BOB, BOB, "join"));
        counted.add(vec![join]);
        let acl = json!({"allow": ["*"], "deny": ["evil.example"]});
        let visibility = json!({"history_visibility": history_visibility});
        for (kind, content) in
            [("m.room.server_acl", acl), ("m.room.history_visibility", visibility)]
        {
            let event = counted.finish(counted.room.state(ALICE, kind, "", content));
            counted.add(vec![event]);
        }
        counted
    }

    /// Finishes an event behind the last one.
    fn finish(&self, draft: Draft<'_>) -> Event {
        let draft = draft.authorised_by(self.auth.clone());
        match self.events.last() {
            Some(last) => draft.after([last]).finish(),
            None => draft.finish(),
        }
    }

    fn line(&self, count: usize) -> Vec<Event> {
        let mut line: Vec<Event> = Vec::new();
        for number in 0..count {
            let draft = self.room.message(ALICE, &format!("message {number} of some length"));
            let draft = draft.authorised_by(self.auth.clone());
            let last = line.last().or_else(|| self.events.last());
            let event = draft.after(last).finish();
            line.push(event);
        }
        line
    }

    fn members(&self, count: usize) -> Vec<Event> {
        let mut line: Vec<Event> = Vec::new();
        for number in 0..count {
            let user = format!("@user{number}:server{}.example", number % 700);
            let draft = self.room.member(&user, &user, "join").authorised_by(self.auth.clone());
            let last = line.last().or_else(|| self.events.last());
            let event = draft.after(last).finish();
            line.push(event);
        }
        line
    }

    /// Appends events; returns the round trips.
    fn add(&mut self, events: Vec<Event>) -> u64 {
        self.cx.store.take_flights(false);
        let version = self.room.version.as_str();
        let new = events.iter().map(|it| {
            let pdu = it.pdu.as_bytes();
            NewEvent::accepted(&self.room.room_id, version, &it.event_id, pdu)
        });
        let outcomes = append_all(&self.cx, &new.collect::<Vec<_>>()).outcomes;
        let is_new = |it: &Outcome| {
            matches!(it, Outcome::Appended { duplicate: false, state_unknown: false, .. })
        };
        assert!(outcomes.iter().all(is_new), "{outcomes:?}");
        assert_eq!(outcomes.len(), events.len());
        self.events.extend(events);
        self.cx.store.take_flights(false)
    }

    fn asker() -> Asker {
        let (origin, destination) = ("two.example".to_owned(), "one.example".to_owned());
        Asker::Server { origin, destination }
    }

    fn backfill(&self, from: usize) -> Backfill {
        let event_ids = vec![self.events[from].event_id.clone()];
        let room_id = self.room.room_id.clone();
        Backfill { room_id, asker: Self::asker(), event_ids, limit: Some(100) }
    }

    fn missing(&self, latest: usize) -> GetMissingEvents {
        GetMissingEvents {
            room_id: self.room.room_id.clone(),
            asker: Self::asker(),
            earliest_events: vec![self.events[latest - 30].event_id.clone()],
            latest_events: vec![self.events[latest].event_id.clone()],
            limit: Some(20),
            min_depth: 0,
        }
    }

    fn state(&self) -> GetState {
        let (room_id, page) = (self.room.room_id.clone(), PageRequest::first(500));
        GetState { room_id, event_id: String::new(), page }
    }

    /// Empties all memory, as in a process that has just started.
    fn forget(&self) {
        self.cx.store.forget_all();
        self.cx.store.take_flights(true);
    }

    /// The round trips of a question when nothing is in memory, and again when all is.
    fn ask<Q: Question>(&self, question: &Q) -> [u64; 2]
    where
        Q::Answer: std::fmt::Debug,
    {
        let answer = || answer(&self.cx, question, &Deadline::none()).unwrap();
        self.forget();
        let first = format!("{:?}", answer());
        let cold = self.cx.store.take_flights(false);
        assert_eq!(format!("{:?}", answer()), first);
        [cold, self.cx.store.take_flights(false)]
    }
}

/// The round trips of questions and appends, and the most that are allowed.
#[derive(Default)]
struct Report(Vec<(String, u64, u64)>);

impl Report {
    fn add(&mut self, name: String, flights: u64, most: u64) {
        println!("{name:<58} {flights:>2} of {most}");
        self.0.push((name, flights, most));
    }

    /// A question that is asked twice: when nothing is in memory, and when all is.
    fn add_question(&mut self, name: &str, [cold, warm]: [u64; 2], most: u64) {
        self.add(format!("{name}, cold"), cold, most);
        self.add(format!("{name}, warm"), warm, 1);
    }
}

/// A kind of room.
struct Kind {
    name: &'static str,
    members: usize,
    messages: usize,
    /// The most round trips of a question, of a new member, and of a page of the state.
    most: [u64; 3],
}

const KINDS: [Kind; 2] = [
    Kind { name: "20,000 messages", members: 0, messages: 20_000, most: [5, 4, 3] },
    // The way to the access control list: the room, four levels of its state, the event.
    Kind { name: "5,000 members", members: 5_000, messages: 300, most: [7, 8, 12] },
];

#[test]
fn questions_and_appends_take_few_round_trips() {
    let mut report = Report::default();
    for history_visibility in ["shared", "joined"] {
        for Kind { name, members, messages, most: [question, member, state] } in KINDS {
            let name = |what: &str| format!("{what}: {name}, {history_visibility}");
            let mut counted = FlightRoom::new(history_visibility);
            counted.add(counted.members(members));
            counted.add(counted.line(messages));
            let last = counted.events.len() - 1;
            for (place, from) in [("end", last), ("before", last - 150)] {
                let flights = counted.ask(&counted.backfill(from));
                report.add_question(&name(&format!("backfill 100, {place}")), flights, question);
                let flights = counted.ask(&counted.missing(from));
                report.add_question(&name(&format!("missing 20, {place}")), flights, question);
            }
            for count in [1, 64] {
                let what = format!("append {count}");
                let events = counted.line(count);
                counted.forget();
                report.add(name(&format!("{what}, cold")), counted.add(events), 4);
                let events = counted.line(count);
                report.add(name(&format!("{what}, warm")), counted.add(events), 4);
            }
            let events = counted.members(1);
            counted.forget();
            report.add(name("append a member, cold"), counted.add(events), member);
            let flights = counted.ask(&counted.state());
            // Its nodes may not all stay in the caches.
            let [cold, warm] = flights;
            report.add(name("get_state 500, cold"), cold, state);
            report.add(name("get_state 500, warm"), warm, state);
        }
    }
    let over: Vec<_> = report.0.iter().filter(|(_, flights, most)| flights > most).collect();
    assert!(over.is_empty(), "{over:?}");
}
