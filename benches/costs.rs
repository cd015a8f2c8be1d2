//! What one append costs in rooms that hold very many of something which any server of the room can
//! make more of: it must not grow with it.
//!
//! `cargo bench --bench costs`: rooms with 10, 1,000 and 20,000 of each.

use std::time::Duration;

use backscroll::{
    context::Context,
    deadline::Deadline,
    ingest::{self, NewEvent, NotesLeft, Outcome, Verdict},
    pdu::RoomVersion,
    query::{self, Asker, Backfill},
    store::{Options, Store},
};
use backscroll_testkit::{Draft, Event, Room};
use criterion::{BatchSize, BenchmarkId, Criterion};
use serde_json::json;
use tempfile::TempDir;

const ALICE: &str = "@alice:ours.example";
/// Sizes that run in a moment are enough to see that the program works.
const SIZES: [usize; 3] = if cfg!(debug_assertions) { [5, 10, 20] } else { [10, 1_000, 20_000] };

/// A room in a store of its own.
struct Held {
    cx: Context,
    room: Room,
    create: Event,
    join: Event,
    _dir: TempDir,
}

/// An event that is to come, and what was decided about it.
struct Coming {
    event: Event,
    verdict: Verdict,
}

impl Held {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { cache_bytes: 256 << 20, ..Options::small(dir.path()) };
        let cx = Context::new(Store::open(&options).expect("a store"));
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]);
        let join = join.authorised_by([create.event_id.clone()]).finish();
        let held = Self { cx, room, create, join, _dir: dir };
        held.append(&accepted(held.create.clone()));
        held.append(&accepted(held.join.clone()));
        held
    }

    fn append(&self, coming: &Coming) {
        let event = NewEvent { verdict: coming.verdict, ..new_event(&self.room, &coming.event) };
        let outcome = ingest::append_unflushed(&self.cx, &event).expect("a working store");
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    }

    fn authorised(&self, draft: Draft<'_>) -> Event {
        draft.authorised_by([self.create.event_id.clone(), self.join.event_id.clone()]).finish()
    }

    /// A message after an event.
    fn message(&self, after: &Event) -> Coming {
        accepted(self.authorised(self.room.message(ALICE, "hello").after([after])))
    }

    /// A state event of its own kind after the join.
    fn state(&self, key: usize) -> Coming {
        let draft = self.room.state(ALICE, "entry", &key.to_string(), json!({}));
        accepted(self.authorised(draft.after([&self.join])))
    }

    /// A message that waits for one that is not there.
    fn waiting(&self) -> Coming {
        let draft = self.room.message(ALICE, "hello").after([&self.join]);
        accepted(self.authorised(draft.after_id("$missing")))
    }

    fn redaction(&self, of: &str) -> Coming {
        accepted(self.authorised(self.room.redaction("@bob:two.example", of).after([&self.join])))
    }
}

/// Makes the next event of a kind, given how many there are.
type Make = fn(&Held, usize) -> Coming;

fn accepted(event: Event) -> Coming {
    Coming { event, verdict: Verdict::Accepted }
}

/// An event of a room, accepted, to be appended.
fn new_event<'a>(room: &'a Room, event: &'a Event) -> NewEvent<'a> {
    NewEvent {
        room_id: &room.room_id,
        room_version: room.version.as_str(),
        event_id: &event.event_id,
        pdu: event.pdu.as_bytes(),
        verdict: Verdict::Accepted,
        outlier: false,
        state_after: &[],
        arrival: None,
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200))
        .sample_size(20)
        .configure_from_args();
    let rows: [(&str, Make); 6] = [
        ("forward extremities of one state", |held, _| held.message(&held.join)),
        ("forward extremities of a state each", Held::state),
        ("events that wait for one", |held, _| held.waiting()),
        ("redactions of one event", |held, _| held.redaction(&held.join.event_id)),
        ("redactions of an event that is not there", |held, _| held.redaction("$missing")),
        ("soft-failed events", |held, _| Coming {
            verdict: Verdict::SoftFailed,
            ..held.message(&held.join)
        }),
    ];
    for (name, make) in rows {
        let mut group = criterion.benchmark_group(format!("append beside {name}"));
        for size in SIZES {
            let held = Held::new();
            (0..size).for_each(|number| held.append(&make(&held, number)));
            while ingest::work_off(&held.cx).expect("a working store") == NotesLeft::Some {}
            let mut number = size;
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                let next = || {
                    number += 1;
                    make(&held, number)
                };
                bencher.iter_batched(next, |it| held.append(&it), BatchSize::PerIteration);
            });
            question(&held, &mut group, size);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// The last page of the room.
fn question(
    held: &Held,
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    size: usize,
) {
    let server = "ours.example".to_owned();
    let question = Backfill {
        room_id: held.room.room_id.clone(),
        asker: Asker::Server { origin: server.clone(), destination: server },
        event_ids: vec![held.join.event_id.clone()],
        limit: Some(100),
    };
    group.bench_function(BenchmarkId::new("question", size), |bencher| {
        bencher.iter(|| query::answer(&held.cx, &question, &Deadline::none()));
    });
}
