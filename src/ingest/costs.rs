//! The cost of an append does not grow with the number of anything that other servers can make many
//! of. The cost is counted in records read and written, in rooms with few and with many of it.

use std::sync::atomic::Ordering;

use backscroll_testkit::{Draft, Event, Room};
use serde_json::json;
use tempfile::TempDir;

use super::{
    BatchOutcome, MAX_PREV_EVENTS, NewEvent, NotesLeft, Outcome, Refusal, Verdict, append_all,
    append_unflushed, work_off,
};
use crate::{
    context::Context,
    pdu::RoomVersion,
    store::{Options, PrevEvent, Store, View},
};

const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
/// More than the work of one turn.
const FEW: usize = 300;
/// Several times the work of one turn.
const MANY: usize = 1_500;
/// The most records that one append may read and write.
const MAX_RECORDS: u64 = 4_000;
/// The most records of a message, and of 64 messages that are appended together.
const MAX_ALONE: u64 = 18;
const MAX_TOGETHER: u64 = 340;

/// An event of a room, accepted, to be appended.
fn accepted<'a>(room: &'a Room, event: &'a Event) -> NewEvent<'a> {
    let pdu = event.pdu.as_bytes();
    NewEvent::accepted(&room.room_id, room.version.as_str(), &event.event_id, pdu)
}

struct RoomOfCosts {
    cx: Context,
    room: Room,
    create: Event,
    join: Event,
    _dir: TempDir,
}

impl RoomOfCosts {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]);
        let join = join.authorised_by([create.event_id.clone()]).finish();
        let held = Self { cx, room, create, join, _dir: dir };
        held.append(&held.create, Verdict::Accepted);
        held.append(&held.join, Verdict::Accepted);
        held
    }

    /// Appends an event; returns the number of records read and written.
    fn append(&self, event: &Event, verdict: Verdict) -> u64 {
        self.cost_of(&NewEvent { verdict, ..accepted(&self.room, event) })
    }

    /// Appends an event as an outlier; returns the number of records read and written.
    fn append_outlier(&self, event: &Event) -> u64 {
        self.cost_of(&NewEvent { outlier: true, ..accepted(&self.room, event) })
    }

    fn cost_of(&self, event: &NewEvent<'_>) -> u64 {
        let before = self.cx.store.touched.load(Ordering::Relaxed);
        let outcome = append_unflushed(&self.cx, event).unwrap();
        assert!(matches!(outcome, Outcome::Appended { duplicate: false, .. }), "{outcome:?}");
        self.cx.store.touched.load(Ordering::Relaxed) - before
    }

    /// Works off all notes; returns the number of turns, and the most records of a turn.
    fn work_off(&self) -> (usize, u64) {
        let mut turns = 0;
        let mut most = 0;
        loop {
            let before = self.cx.store.touched.load(Ordering::Relaxed);
            let left = work_off(&self.cx).unwrap();
            most = most.max(self.cx.store.touched.load(Ordering::Relaxed) - before);
            if left == NotesLeft::None {
                return (turns, most);
            }
            turns += 1;
        }
    }

    fn authorised(&self, draft: Draft<'_>) -> Event {
        draft.authorised_by([self.create.event_id.clone(), self.join.event_id.clone()]).finish()
    }

    fn message(&self, after: &Event) -> Event {
        self.authorised(self.room.message(ALICE, "hello").after([after]))
    }

    fn state(&self, key: usize) -> Event {
        let draft = self.room.state(ALICE, "entry", &key.to_string(), json!({}));
        self.authorised(draft.after([&self.join]))
    }

    fn flags(&self, event: &Event) -> crate::store::Flags {
        let store = &self.cx.store;
        let room = store.room_num(&self.room.room_id).unwrap().unwrap();
        let number = store.event_num(room, &event.event_id).unwrap().unwrap();
        store.topology(room).node(number).unwrap().unwrap().flags
    }

    fn states_known(&self) -> usize {
        let store = &self.cx.store;
        let room = store.room_num(&self.room.room_id).unwrap().unwrap();
        let nodes = (0..store.room(room).unwrap().next_event.0).filter_map(|it| {
            store.topology(room).node(crate::store::EventNum(it)).unwrap()?.state_after
        });
        nodes.count()
    }
}

/// The cost of the last of `count` events; each is made from the number of events before it.
fn cost_of_last(count: usize, make: impl Fn(&RoomOfCosts, usize) -> (Event, Verdict)) -> u64 {
    let held = RoomOfCosts::new();
    let mut last = 0;
    for number in 0..count {
        let (event, verdict) = make(&held, number);
        last = held.append(&event, verdict);
    }
    held.work_off();
    last
}

#[track_caller]
fn is_flat(make: impl Fn(&RoomOfCosts, usize) -> (Event, Verdict)) {
    let few = cost_of_last(FEW, &make);
    let many = cost_of_last(MANY, &make);
    assert!(many <= few + few / 4 + 20, "{few} records beside {FEW}, {many} beside {MANY}");
    assert!(many <= MAX_RECORDS, "{many} records");
}

/// The number of flushes that the metrics count.
fn flushes(cx: &Context) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &cx.metrics.registry()).unwrap();
    text.lines().find(|it| it.starts_with("backscroll_flush_seconds_count")).unwrap().to_owned()
}

#[test]
fn events_that_are_appended_together_share_one_flush() {
    let held = RoomOfCosts::new();
    let events: Vec<Event> = (0..256).map(|_| held.message(&held.join)).collect();
    let events: Vec<NewEvent<'_>> = events.iter().map(|it| accepted(&held.room, it)).collect();
    assert_eq!(flushes(&held.cx), "backscroll_flush_seconds_count 0");
    let BatchOutcome { outcomes, failure } = append_all(&held.cx, &events);
    assert!(failure.is_none(), "{failure:?}");
    assert!(outcomes.iter().all(|it| matches!(it, Outcome::Appended { duplicate: false, .. })));
    assert_eq!(outcomes.len(), events.len());
    assert_eq!(flushes(&held.cx), "backscroll_flush_seconds_count 1");
}

/// Records that a message in a line takes, alone and of 64 that are appended together: what cannot be
/// there, since the event is new, is not looked for.
#[test]
fn messages_in_a_line() {
    let held = RoomOfCosts::new();
    if !held.cx.store.is_in_files() {
        println!("skipped: what is read ahead is counted too; round trips count there");
        return;
    }
    let mut last = held.join.clone();
    let mut alone = Vec::new();
    for _ in 0..40 {
        last = held.message(&last);
        alone.push(held.append(&last, Verdict::Accepted));
    }
    // The event that fills a page costs more: it packs the bodies of the page.
    alone.sort_unstable();
    let median = alone[alone.len() / 2];
    let mut line = Vec::new();
    for _ in 0..64 {
        last = held.message(&last);
        line.push(last.clone());
    }
    let line: Vec<NewEvent<'_>> = line.iter().map(|it| accepted(&held.room, it)).collect();
    let before = held.cx.store.touched.load(Ordering::Relaxed);
    assert!(append_all(&held.cx, &line).failure.is_none());
    let together = held.cx.store.touched.load(Ordering::Relaxed) - before;
    println!("{median} records alone, {together} for 64 together");
    assert!(median <= MAX_ALONE, "{median} records");
    assert!(together <= MAX_TOGETHER, "{together} records");
}

#[test]
fn forward_extremities_of_one_state() {
    is_flat(|held, _| (held.message(&held.join), Verdict::Accepted));
}

#[test]
fn forward_extremities_of_a_state_each() {
    is_flat(|held, number| (held.state(number), Verdict::Accepted));
}

#[test]
fn events_that_wait_for_one() {
    is_flat(|held, _| {
        let draft = held.room.message(ALICE, "hello").after([&held.join]);
        (held.authorised(draft.after_id("$missing")), Verdict::Accepted)
    });
}

#[test]
fn redactions_of_one_event() {
    is_flat(|held, _| {
        let redaction = held.room.redaction(BOB, &held.join.event_id).after([&held.join]);
        (held.authorised(redaction), Verdict::Accepted)
    });
}

#[test]
fn redactions_of_an_event_that_is_not_there() {
    is_flat(|held, _| {
        let redaction = held.room.redaction(BOB, "$missing").after([&held.join]);
        (held.authorised(redaction), Verdict::Accepted)
    });
}

#[test]
fn redactions_whose_state_is_not_known() {
    is_flat(|held, _| {
        let redaction = held.room.redaction(BOB, &held.join.event_id).after([&held.join]);
        (held.authorised(redaction.after_id("$missing")), Verdict::Accepted)
    });
}

/// An event that many others wait for is acknowledged after bounded work. In the end the states after
/// all of them are known, in whichever way they waited.
#[test]
fn an_event_that_many_wait_for_is_acknowledged_before_all_are_told() {
    let held = RoomOfCosts::new();
    let awaited = held.message(&held.join);
    let behind = held.message(&awaited);
    for number in 0..MANY {
        // Some name what is missing, others what follows it.
        let after = if number % 2 == 0 { &awaited } else { &behind };
        held.append(&held.message(after), Verdict::Accepted);
    }
    held.append(&behind, Verdict::Accepted);
    held.work_off();
    let cost = held.append(&awaited, Verdict::Accepted);
    assert!(cost <= 2 * MAX_RECORDS, "{cost} records");
    assert!(held.states_known() < MANY, "some are left for later turns");
    let (turns, most) = held.work_off();
    assert!(turns > 4, "{turns} turns");
    assert!(most <= MAX_RECORDS, "{most} records in a turn");
    assert_eq!(held.states_known(), MANY + 4);
}

/// An event is stored that other servers have redacted many times; only one redaction takes effect.
#[test]
fn an_event_with_many_redactions_is_hidden_until_all_are_judged() {
    let held = RoomOfCosts::new();
    let said = held.message(&held.join);
    for number in 0..MANY {
        let sender = if number == MANY / 2 { ALICE } else { BOB };
        let redaction = held.room.redaction(sender, &said.event_id).after([&held.join]);
        held.append(&held.authorised(redaction), Verdict::Accepted);
    }
    let cost = held.append(&said, Verdict::Accepted);
    assert!(cost <= 4 * MAX_RECORDS, "{cost} records");
    assert!(held.flags(&said).redaction_pending);
    let (_, most) = held.work_off();
    assert!(most <= MAX_RECORDS, "{most} records in a turn");
    let flags = held.flags(&said);
    assert_eq!((flags.redacted, flags.redaction_pending), (true, false));
}

/// Events that were not accepted are walked through to mark what they follow: a long chain of them in
/// several steps.
#[test]
fn a_long_line_of_soft_failed_events_is_followed_in_steps() {
    let held = RoomOfCosts::new();
    let own = held.message(&held.join);
    held.append(&own, Verdict::Accepted);
    let mut last = own.clone();
    for _ in 0..MANY {
        last = held.message(&last);
        held.append(&last, Verdict::SoftFailed);
    }
    assert!(!held.flags(&own).followed);
    let cost = held.append(&held.message(&last), Verdict::Accepted);
    assert!(cost <= MAX_RECORDS, "{cost} records");
    let (_, most) = held.work_off();
    assert!(most <= MAX_RECORDS, "{most} records in a turn");
    assert!(held.flags(&own).followed);
}

#[test]
fn of_very_many_predecessors_the_first_are_kept_and_the_state_is_not_known() {
    let held = RoomOfCosts::new();
    let before: Vec<Event> = (0..40).map(|_| held.message(&held.join)).collect();
    for event in &before {
        held.append(event, Verdict::Accepted);
    }
    let many = held.authorised(held.room.message(ALICE, "hello").after(&before));
    held.append(&many, Verdict::Accepted);
    let store = &held.cx.store;
    let room = store.room_num(&held.room.room_id).unwrap().unwrap();
    let number = store.event_num(room, &many.event_id).unwrap().unwrap();
    let node = store.topology(room).node(number).unwrap().unwrap();
    assert_eq!(node.prev_events.len(), MAX_PREV_EVENTS + 1);
    assert_eq!(node.prev_events.last(), Some(&PrevEvent::Missing));
    assert_eq!(node.state_after, None);
}

/// A given state names events that are stored later: each costs the same when it is stored, except
/// for the few that are waited for.
#[test]
fn a_given_state_whose_events_come_one_by_one() {
    let held = RoomOfCosts::new();
    let entries: Vec<Event> = (0..MANY).map(|it| held.state(it)).collect();
    let mut ids: Vec<String> = entries.iter().map(|it| it.event_id.clone()).collect();
    ids.push(held.create.event_id.clone());
    ids.push(held.join.event_id.clone());
    let late = held.authorised(held.room.message(ALICE, "hello").after_id("$gone"));
    let event = NewEvent { state_after: &ids, ..accepted(&held.room, &late) };
    assert!(matches!(append_unflushed(&held.cx, &event).unwrap(), Outcome::Appended { .. }));
    let known = held.states_known();
    let costs: Vec<u64> = entries.iter().map(|it| held.append_outlier(it)).collect();
    let cheap = costs.iter().filter(|it| **it < 150).count();
    // Each time that all of them are looked up, about half of them are left.
    assert!(cheap > MANY - 40, "{cheap} of {MANY}");
    held.work_off();
    assert_eq!(held.states_known(), known + 1);

    let ids: Vec<String> = (0..=super::MAX_STATE_AFTER).map(|it| format!("${it}")).collect();
    let other = held.authorised(held.room.message(ALICE, "hello").after_id("$gone"));
    let event = NewEvent { state_after: &ids, ..accepted(&held.room, &other) };
    let refused = append_unflushed(&held.cx, &event).unwrap();
    let is_it = |it: &Refusal| matches!(it, Refusal::StateTooLong(_));
    assert!(matches!(refused, Outcome::Refused { refusal, .. } if is_it(&refusal)));
}
