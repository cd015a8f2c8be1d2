//! The cost of one append to a room with many events of a kind that any server of the room can create:
//! forward extremities, waiting events, redactions, soft-failed events. It must not grow with their number.
//!
//! `cargo bench --bench costs`: rooms with 10, 1,000 and 20,000 of each kind.

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
/// The numbers of events. A debug build only shows that the program works.
const SIZES: [usize; 3] = if cfg!(debug_assertions) { [5, 10, 20] } else { [10, 1_000, 20_000] };

/// A room in a store of its own.
struct Stage {
    cx: Context,
    room: Room,
    create: Event,
    join: Event,
    _dir: TempDir,
}

/// An event to be appended, with its verdict.
struct Next {
    event: Event,
    verdict: Verdict,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { cache_bytes: 256 << 20, ..Options::small(dir.path()) };
        let cx = Context::new(Store::open(&options).expect("a store"));
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]);
        let join = join.authorised_by([create.event_id.clone()]).finish();
        let stage = Self { cx, room, create, join, _dir: dir };
        stage.append(&accepted(stage.create.clone()));
        stage.append(&accepted(stage.join.clone()));
        stage
    }

    fn append(&self, next: &Next) {
        let event = NewEvent { verdict: next.verdict, ..new_event(&self.room, &next.event) };
        let outcome = ingest::append_unflushed(&self.cx, &event).expect("a working store");
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    }

    fn authorised(&self, draft: Draft<'_>) -> Event {
        draft.authorised_by([self.create.event_id.clone(), self.join.event_id.clone()]).finish()
    }

    /// Makes a message after an event.
    fn message(&self, after: &Event) -> Next {
        accepted(self.authorised(self.room.message(ALICE, "hello").after([after])))
    }

    /// Makes a state event with a key of its own after the join.
    fn state(&self, key: usize) -> Next {
        let draft = self.room.state(ALICE, "entry", &key.to_string(), json!({}));
        accepted(self.authorised(draft.after([&self.join])))
    }

    /// Makes a message whose state is unknown, because a predecessor is missing.
    fn waiting(&self) -> Next {
        let draft = self.room.message(ALICE, "hello").after([&self.join]);
        accepted(self.authorised(draft.after_id("$missing")))
    }

    fn redaction(&self, of: &str) -> Next {
        accepted(self.authorised(self.room.redaction("@bob:two.example", of).after([&self.join])))
    }
}

/// Makes the next event of a kind, given the number of events of that kind.
type Make = fn(&Stage, usize) -> Next;

fn accepted(event: Event) -> Next {
    Next { event, verdict: Verdict::Accepted }
}

/// An event of a room, accepted, to be appended.
fn new_event<'a>(room: &'a Room, event: &'a Event) -> NewEvent<'a> {
    let pdu = event.pdu.as_bytes();
    NewEvent::accepted(&room.room_id, room.version.as_str(), &event.event_id, pdu)
}

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200))
        .sample_size(20)
        .configure_from_args();
    let rows: [(&str, Make); 6] = [
        ("forward extremities of one state", |stage, _| stage.message(&stage.join)),
        ("forward extremities of a state each", Stage::state),
        ("events that wait for one", |stage, _| stage.waiting()),
        ("redactions of one event", |stage, _| stage.redaction(&stage.join.event_id)),
        ("redactions of an event that is not there", |stage, _| stage.redaction("$missing")),
        ("soft-failed events", |stage, _| Next {
            verdict: Verdict::SoftFailed,
            ..stage.message(&stage.join)
        }),
    ];
    for (name, make) in rows {
        let mut group = criterion.benchmark_group(format!("append beside {name}"));
        for size in SIZES {
            let stage = Stage::new();
            (0..size).for_each(|number| stage.append(&make(&stage, number)));
            while ingest::work_off(&stage.cx).expect("a working store") == NotesLeft::Some {}
            let mut number = size;
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                let next = || {
                    number += 1;
                    make(&stage, number)
                };
                bencher.iter_batched(next, |it| stage.append(&it), BatchSize::PerIteration);
            });
            measure_backfill(&stage, &mut group, size);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Measures `/backfill` of the room.
fn measure_backfill(
    stage: &Stage,
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    size: usize,
) {
    let server = "ours.example".to_owned();
    let request = Backfill {
        room_id: stage.room.room_id.clone(),
        asker: Asker::Server { origin: server.clone(), destination: server },
        event_ids: vec![stage.join.event_id.clone()],
        limit: Some(100),
    };
    group.bench_function(BenchmarkId::new("backfill", size), |bencher| {
        bencher.iter(|| query::answer(&stage.cx, &request, &Deadline::none()));
    });
}
