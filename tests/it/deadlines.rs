//! A question whose deadline passes in the middle of it has no answer, rather than a part of one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use backscroll::{
    context::Context,
    deadline::Deadline,
    query::{self, Asker, Backfill, GetMissingEvents, Page, QueryError},
};

use crate::support::{load::append_room, memory::Memory, rooms};

/// A clock whose hand moves when it is looked at: the deadline passes after so many looks.
fn after(looks: u32) -> (Deadline, Arc<AtomicU32>) {
    let looked = Arc::new(AtomicU32::new(0));
    let hand = Arc::clone(&looked);
    (Deadline::new(move || hand.fetch_add(1, Ordering::Relaxed) >= looks), looked)
}

fn events(page: &Page) -> Vec<(&str, &[u8])> {
    page.events.iter().map(|it| (it.event_id.as_str(), it.pdu.as_ref())).collect()
}

/// Asks with a deadline at each step of the way.
fn cut_off_anywhere(ask: impl Fn(&Deadline) -> Result<Page, QueryError>) {
    let whole = ask(&Deadline::none()).unwrap();
    assert!(whole.events.len() > 3);
    let (never, looked) = after(u32::MAX);
    ask(&never).unwrap();
    let steps = looked.load(Ordering::Relaxed);
    assert!(steps >= whole.visited, "a look at the clock for every event looked at");
    for looks in 0..steps {
        let (deadline, looked) = after(looks);
        assert!(matches!(ask(&deadline), Err(QueryError::Deadline(_))), "after {looks} looks");
        assert_eq!(looked.load(Ordering::Relaxed), looks + 1, "nothing goes on after it");
    }
    assert_eq!(events(&ask(&after(steps).0).unwrap()), events(&whole));
}

fn with_a_room(test: impl Fn(&Context, String, Vec<String>)) {
    let rooms = rooms::bundled();
    let room = rooms.iter().find(|it| it.name == "forks-v2").unwrap();
    let memory = Memory::new();
    append_room(&memory.cx, room);
    let summary = query::get_room(&memory.cx, &room.header.room_id).unwrap();
    test(&memory.cx, summary.room_id, summary.forward_extremities);
}

#[test]
fn backfill_ends_with_its_deadline() {
    with_a_room(|cx, room_id, event_ids| {
        let question = Backfill { room_id, asker: Asker::Sister, event_ids, limit: Some(20) };
        cut_off_anywhere(|deadline| query::backfill(cx, &question, deadline));
    });
}

#[test]
fn get_missing_events_ends_with_its_deadline() {
    with_a_room(|cx, room_id, latest_events| {
        let question = GetMissingEvents {
            room_id,
            asker: Asker::Sister,
            earliest_events: Vec::new(),
            latest_events,
            limit: Some(20),
            min_depth: 0,
        };
        cut_off_anywhere(|deadline| query::get_missing_events(cx, &question, deadline));
    });
}
