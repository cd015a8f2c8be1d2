//! The cost of one decision (has this server access, and in which form does it get this event) in rooms
//! of 10, 1,000 and 100,000 members with history visibility `joined`. It must not grow with the room.
//!
//! `cargo bench --bench decision`. The last lines are the ratios; the rooms take turns in one run.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use backscroll::{
    context::Context,
    deadline::Deadline,
    ingest::{self, NewEvent, Outcome},
    pdu::{Pdu, RoomVersion},
    query::{self, Asker, Backfill},
    store::{Options, Store},
    visibility::Form,
};
use criterion::{BenchmarkId, Criterion};
use ruma::{CanonicalJsonObject, canonical_json::to_canonical_value};
use serde_json::{Value, json};
use tempfile::TempDir;

const ROOM_ID: &str = "!room:ours.example";
/// The numbers of members. A debug build only shows that the program works.
const SIZES: [usize; 3] =
    if cfg!(debug_assertions) { [10, 100, 1_000] } else { [10, 1_000, 100_000] };

/// A room whose events are a straight line.
struct Room {
    cx: Context,
    last: Vec<String>,
    depth: i64,
    _dir: TempDir,
}

impl Room {
    /// Makes a room with `count` members of as many servers, one of them the requesting server.
    fn with_members(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { cache_bytes: 1 << 30, ..Options::small(dir.path()) };
        let cx = Context::new(Store::open(&options).expect("a store"));
        let mut room = Self { cx, last: Vec::new(), depth: 0, _dir: dir };
        let creator = "@creator:ours.example";
        room.append(creator, "m.room.create", Some(""), &json!({"creator": creator}));
        room.append(creator, "m.room.member", Some(creator), &json!({"membership": "join"}));
        let joined = json!({"history_visibility": "joined"});
        room.append(creator, "m.room.history_visibility", Some(""), &joined);
        for number in 2..count {
            let user = format!("@user:server{number}.example");
            room.append(&user, "m.room.member", Some(&user), &json!({"membership": "join"}));
        }
        let asking = "@user:asking.example";
        room.append(asking, "m.room.member", Some(asking), &json!({"membership": "join"}));
        room.append(
            creator,
            "m.room.message",
            None,
            &json!({"msgtype": "m.text", "body": "hello"}),
        );
        room
    }

    fn append(&mut self, sender: &str, kind: &str, state_key: Option<&str>, content: &Value) {
        self.depth += 1;
        let mut pdu = json!({
            "room_id": ROOM_ID, "sender": sender, "type": kind, "content": content,
            "depth": self.depth, "prev_events": self.last, "auth_events": [],
            "origin_server_ts": self.depth, "signatures": {},
        });
        if let (Some(state_key), Some(members)) = (state_key, pdu.as_object_mut()) {
            members.insert("state_key".to_owned(), state_key.into());
        }
        let pdu = to_canonical_value(pdu).expect("canonical JSON");
        let mut pdu: CanonicalJsonObject = pdu.as_object().expect("an object").clone();
        ruma::signatures::add_content_hash_to_event(&mut pdu).expect("a hash");
        let pdu = serde_json::to_vec(&pdu).expect("JSON");
        let parsed = Pdu::parse(&pdu, RoomVersion::V10).expect("a PDU");
        let event = NewEvent::accepted(ROOM_ID, "10", parsed.event_id().as_str(), &pdu);
        let outcome = ingest::append_unflushed(&self.cx, &event).expect("a working store");
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
        self.last = vec![parsed.event_id().to_string()];
    }

    /// Decides about the last event for the requesting server.
    fn decide(&self) -> Form {
        let asker = Asker::Server {
            origin: "asking.example".to_owned(),
            destination: "ours.example".to_owned(),
        };
        let (room_id, event_ids) = (ROOM_ID.to_owned(), self.last.clone());
        let question = Backfill { room_id, asker, event_ids, limit: Some(1) };
        let page = query::answer(&self.cx, &question, &Deadline::none()).expect("an answer");
        page.events.first().expect("the event").form
    }
}

fn main() {
    let rooms = SIZES.map(|members| (members, Room::with_members(members)));
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decision");
    for (members, room) in &rooms {
        assert_eq!(room.decide(), Form::Full, "a member may read");
        group.bench_with_input(BenchmarkId::from_parameter(members), room, |bencher, room| {
            bencher.iter(|| black_box(room.decide()));
        });
    }
    group.finish();
    criterion.final_summary();
    ratios(&rooms);
}

/// Measures the rooms in turns, so that other load of the machine affects all of them.
fn ratios(rooms: &[(usize, Room)]) {
    const TURNS: usize = 200;
    const DECISIONS: u32 = 50;
    let mut times = vec![Vec::with_capacity(TURNS); rooms.len()];
    for _ in 0..TURNS {
        for ((_, room), times) in rooms.iter().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..DECISIONS {
                black_box(room.decide());
            }
            times.push(start.elapsed() / DECISIONS);
        }
    }
    let medians: Vec<Duration> = times.iter_mut().map(|it| median(it)).collect();
    let smallest = medians.first().map_or(1.0, Duration::as_secs_f64);
    for ((members, _), time) in rooms.iter().zip(&medians) {
        let ratio = time.as_secs_f64() / smallest;
        println!(
            "{members:>7} members: {time:>9.1?} per decision, {ratio:.2} times the smallest room"
        );
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
