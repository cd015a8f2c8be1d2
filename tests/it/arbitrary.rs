//! No input damages the store: recorded events with some changed bytes are stored or refused, nothing
//! panics, and `verify` finds no fault afterwards.
//!
//! Runs 256 cases, or for `BACKSCROLL_FUZZ_SECONDS`. The seeds are the bundled rooms.

use std::time::{Duration, Instant};

use backscroll::ingest::{self, NewEvent, Replace, Verdict};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

use crate::support::{faults, memory::Memory, rooms};

/// A change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let text = prop_oneof![
        vec(any::<u8>(), 1..4),
        "(null|\\{\\}|\\[\\]|-?[0-9]{1,20}|\"\\\\u[dD][89a-f]00\"|1e9|[\\[{]{1,200}|,\"[a-z_]{1,8}\":)"
            .prop_map(String::into_bytes),
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), text).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), 1..30_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (any::<Index>(), 1..60_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn apply(pdu: &mut Vec<u8>, change: Change) {
    let place = |at: Index, len: usize| at.index(len + 1);
    match change {
        Change::Set(at, byte) if !pdu.is_empty() => {
            let at = at.index(pdu.len());
            pdu[at] = byte;
        }
        Change::Set(..) => {}
        Change::Insert(at, bytes) => {
            let at = place(at, pdu.len());
            pdu.splice(at..at, bytes);
        }
        Change::Remove(at, count) => {
            let at = place(at, pdu.len());
            let end = (at + count).min(pdu.len());
            pdu.drain(at..end);
        }
        Change::Repeat(at, count) => {
            let at = place(at, pdu.len());
            let end = (at + count).min(pdu.len());
            let again = pdu[at..end].to_vec();
            pdu.splice(at..at, again);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn changed_bytes_of_a_recorded_event_do_no_harm() {
    let rooms = rooms::bundled();
    let memory = Memory::new();
    let verdicts = (any::<bool>(), any::<bool>(), any::<bool>());
    let strategy = (any::<Index>(), any::<Index>(), vec(change(), 0..4), verdicts, any::<bool>());
    let seconds = std::env::var("BACKSCROLL_FUZZ_SECONDS").ok().and_then(|it| it.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    // A given seed applies to the first run only; otherwise all runs would be the same.
    let mut seeds = TestRunner::new(ProptestConfig::default());
    loop {
        let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), seeds.new_rng());
        let outcome = runner.run(&strategy, |(room, line, changes, verdict, named)| {
            let room = room.get(&rooms);
            let line = line.get(&room.lines);
            let mut pdu = line.pdu.get().as_bytes().to_vec();
            changes.into_iter().for_each(|it| apply(&mut pdu, it));
            let (outlier, rejected, soft_failed) = verdict;
            let event = NewEvent {
                kept: "",
                room_id: &room.header.room_id,
                room_version: &room.header.room_version,
                event_id: if named { &line.event_id } else { "" },
                pdu: &pdu,
                verdict: Verdict::of_flags(rejected, soft_failed),
                outlier,
                state_after: &line.state_after,
                arrival: None,
                replace: Replace::Never,
            };
            let taken = ingest::append_unflushed(&memory.cx, &event);
            prop_assert!(taken.is_ok(), "{:?}", taken);
            Ok(())
        });
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        if Instant::now() >= end {
            break;
        }
    }
    memory.cx.store.flush().unwrap();
    let found = faults::of(&memory.cx.store);
    assert!(found.is_empty(), "{found:#?}");
}
