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
struct Counted {
    cx: Context,
    room: Room,
    auth: Vec<String>,
    events: Vec<Event>,
}

impl Counted {
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

    /// The round trips of a question when nothing is in memory, and again when all is.
    fn ask<Q: Question>(&self, question: &Q) -> [u64; 2]
    where
        Q::Answer: std::fmt::Debug,
    {
        let answer = || answer(&self.cx, question, &Deadline::none()).unwrap();
        self.cx.store.forget_all();
        self.cx.store.take_flights(true);
        let first = format!("{:?}", answer());
        let cold = self.cx.store.take_flights(false);
        assert_eq!(format!("{:?}", answer()), first);
        [cold, self.cx.store.take_flights(false)]
    }
}

/// Asks and appends in rooms of a given size, prints the round trips, and holds them.
fn check(line: usize, members: usize) {
    let mut report = Vec::new();
    let mut hold = |name: &str, flights: u64, most: u64| {
        println!("{name:<60} {flights:>3} of {most}");
        report.push((name.to_owned(), flights, most));
    };
    for history_visibility in ["shared", "joined"] {
        for (kind, count) in [("line", line), ("members", members)] {
            let mut counted = Counted::new(history_visibility);
            let members = if kind == "members" { counted.members(count) } else { Vec::new() };
            counted.add(members);
            let line = counted.line(if kind == "line" { count } else { 300 });
            counted.add(line);
            let last = counted.events.len() - 1;
            for (place, from) in [("end", last), ("middle", last - 150)] {
                let name =
                    |what| format!("{what}, {kind} of {count}, {history_visibility}, {place}");
                let most = if kind == "line" { 5 } else { 7 };
                let [cold, warm] = counted.ask(&counted.backfill(from));
                hold(&name("backfill 100, cold"), cold, most);
                hold(&name("backfill 100, warm"), warm, 1);
                let [cold, warm] = counted.ask(&counted.missing(from));
                hold(&name("get_missing_events 20, cold"), cold, most);
                hold(&name("get_missing_events 20, warm"), warm, 1);
            }
            let name = |what| format!("{what}, {kind} of {count}, {history_visibility}");
            for (what, count) in [("append 1, cold", 1), ("append 64, cold", 64)] {
                let events = counted.line(count);
                counted.cx.store.forget_all();
                counted.cx.store.take_flights(true);
                hold(&name(what), counted.add(events), 4);
                let events = counted.line(count);
                hold(&name("the same again, warm"), counted.add(events), 4);
            }
            let events = counted.members(1);
            counted.cx.store.forget_all();
            counted.cx.store.take_flights(true);
            hold(&name("append a member, cold"), counted.add(events), 8);
            let page = PageRequest::first(500);
            let room_id = counted.room.room_id.clone();
            let state = GetState { room_id, event_id: String::new(), page };
            let [cold, warm] = counted.ask(&state);
            hold(&name("get_state 500, cold"), cold, 20);
            hold(&name("get_state 500, warm"), warm, 1);
        }
    }
    let over = report.iter().filter(|(_, flights, most)| flights > most);
    assert_eq!(over.collect::<Vec<_>>(), Vec::<&(String, u64, u64)>::new());
}

#[test]
fn questions_and_appends_take_few_round_trips() {
    check(400, 300);
}

#[test]
#[ignore = "takes minutes; prints the table for large rooms"]
fn questions_and_appends_take_few_round_trips_in_large_rooms() {
    check(20_000, 5_000);
}
