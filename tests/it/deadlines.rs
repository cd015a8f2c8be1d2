//! A query whose deadline passes while it runs fails; it returns no partial result.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use backscroll::{
    context::Context,
    deadline::Deadline,
    query::{self, Asker, Backfill, GetMissingEvents, QueryError, ServedPage, WalkQuestion},
};

use crate::support::{answers, load::append_room, memory::Memory, rooms};

thread_local! {
    /// How often this thread has read the clock.
    static LOOKS: Cell<u32> = const { Cell::new(0) };
    static START: Instant = Instant::now();
}

/// A clock that advances by one second each time it is read.
fn now() -> Instant {
    let looks = LOOKS.get();
    LOOKS.set(looks + 1);
    START.with(|start| *start + Duration::from_secs(looks.into()))
}

/// Resets the clock; returns a deadline that passes after `looks` reads.
fn after(looks: u32) -> Deadline {
    LOOKS.set(0);
    Deadline::new(Some(START.with(|it| *it + Duration::from_secs(looks.into()))), now)
}

fn events(page: &ServedPage) -> Vec<(&str, &[u8])> {
    page.events.iter().map(|it| (it.event_id.as_str(), &*it.pdu)).collect()
}

/// Runs a query with a deadline at each possible step.
fn cut_off_anywhere(cx: &Context, question: &impl WalkQuestion) {
    let ask = |deadline: &Deadline| query::answer(cx, question, deadline);
    let whole = ask(&Deadline::none()).unwrap();
    assert!(whole.events.len() > 3);
    ask(&after(u32::MAX)).unwrap();
    let steps = LOOKS.get();
    assert!(steps >= whole.visited, "the clock is read for each visited event");
    for looks in 0..steps {
        assert!(matches!(ask(&after(looks)), Err(QueryError::Deadline(_))), "after {looks} looks");
        assert_eq!(LOOKS.get(), looks + 1, "no work continues after the deadline");
    }
    assert_eq!(events(&ask(&after(steps)).unwrap()), events(&whole));
}

/// A query whose caller has disconnected stops.
#[test]
fn a_query_ends_when_its_caller_disconnects() {
    with_a_room(|cx, room_id, event_ids| {
        let question = Backfill { room_id, asker: Asker::Internal, event_ids, limit: Some(20) };
        let deadline = Deadline::none();
        let caller = deadline.cancel_on_drop();
        query::answer(cx, &question, &deadline).unwrap();
        drop(caller);
        let ended = query::answer(cx, &question, &deadline);
        assert!(matches!(ended, Err(QueryError::Deadline(_))), "{ended:?}");
    });
}

fn with_a_room(test: impl Fn(&Context, String, Vec<String>)) {
    let rooms = rooms::bundled();
    let room = rooms.iter().find(|it| it.name == "forks-v2").unwrap();
    let memory = Memory::new();
    append_room(&memory.cx, room);
    let summary = answers::room(&memory.cx, &room.header.room_id).unwrap();
    test(&memory.cx, summary.room_id, summary.forward_extremities);
}

#[test]
fn backfill_ends_with_its_deadline() {
    with_a_room(|cx, room_id, event_ids| {
        let question = Backfill { room_id, asker: Asker::Internal, event_ids, limit: Some(20) };
        cut_off_anywhere(cx, &question);
    });
}

#[test]
fn get_missing_events_ends_with_its_deadline() {
    with_a_room(|cx, room_id, latest_events| {
        let question = GetMissingEvents {
            room_id,
            asker: Asker::Internal,
            earliest_events: Vec::new(),
            latest_events,
            limit: Some(20),
            min_depth: 0,
        };
        cut_off_anywhere(cx, &question);
    });
}
