//! Sweeps, deletions and purges, and the command `export`.

use std::{collections::BTreeMap, fs, net::TcpListener, process::Command};

use backscroll::room_format::Reader;
use backscroll_testkit::room::{Event, Room};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{ALICE, homeserver::Stored, next, room_with, world::World};

/// A world with a follower that sweeps each second.
struct Swept {
    world: World,
    metrics: Metrics,
}

/// The metrics of the follower.
#[derive(Clone)]
struct Metrics {
    address: String,
}

impl Metrics {
    /// The values of all metrics.
    async fn all(&self) -> BTreeMap<String, f64> {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let lines = text.lines().filter(|it| it.starts_with("backscroll_synapse_"));
        let values = lines.map(|it| it.rsplit_once(' ').unwrap());
        values.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// When the last sweep ended.
    async fn swept(&self) -> f64 {
        self.all().await["backscroll_synapse_sweep_last_full_seconds"]
    }

    /// The number of differences by kind, without those of which there are none.
    async fn differences(&self) -> BTreeMap<String, f64> {
        let mut metrics = self.all().await;
        metrics.retain(|name, value| name.contains("_sweep_differences_") && *value > 0.0);
        let kind = |name: &str| name.split('"').nth(1).unwrap().to_owned();
        metrics.into_iter().map(|(name, value)| (kind(&name), value)).collect()
    }
}

impl Swept {
    /// Starts everything with these rooms. `None` if PostgreSQL is not installed.
    async fn start(rooms: &[(Room, Vec<Event>)]) -> Option<Self> {
        let mut world = World::start().await?;
        for (room, events) in rooms {
            world.homeserver.room(room).await;
            world.homeserver.send(room, &events.iter().collect::<Vec<_>>()).await;
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut flags = vec!["--metrics-listen", &address, "--sweep-share", "100"];
        flags.extend(["--sweep-flags-every", "1", "--sweep-json-every", "2"]);
        world.follow_with(&flags);
        world.until_equal(&[]).await;
        Some(Self { world, metrics: Metrics { address } })
    }

    /// Waits until this number of sweeps has begun and ended from now on.
    async fn sweeps(&mut self, count: u32) {
        // The first one that ends may have begun before.
        for _ in 0..=count {
            let before = self.metrics.swept().await;
            let metrics = self.metrics.clone();
            let has_ended = async |_: &mut World| metrics.swept().await > before;
            self.world.until("a sweep has ended", has_ended).await;
        }
    }

    /// Changes the row of an event, without a word.
    async fn change(&self, sql: &str, event: &Event) {
        let changed = self.world.homeserver.client.execute(sql, &[&event.event_id]).await.unwrap();
        assert_eq!(changed, 1, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_equal_rooms_finds_nothing() {
    let rooms = [room_with("small", 2), room_with("large", 700), room_with("busy", 5)];
    let Some(mut swept) = Swept::start(&rooms).await else { return };
    let [_, (large, events), (busy, others)] = rooms;
    let homeserver = &swept.world.homeserver;
    for flags in 0..8 {
        let event = next(&large, &events, &format!("flags {flags}"));
        let (outlier, rejected) = (flags & 1 != 0, flags & 2 != 0);
        let stored = Stored { outlier, rejected, soft_failed: flags & 4 != 0, state_group: None };
        homeserver.store(&large, &event, homeserver.draw(), stored).await;
    }
    let mut others = others;
    for number in 0..20 {
        others.push(next(&busy, &others, &format!("while it sweeps {number}")));
        swept.world.homeserver.send(&busy, &[others.last().unwrap()]).await;
    }
    swept.sweeps(3).await;
    swept.world.until_equal(&[]).await;
    assert_eq!(swept.metrics.differences().await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_mends_what_no_row_tells() {
    let rooms = [room_with("room", 200), room_with("gone", 3)];
    let Some(mut swept) = Swept::start(&rooms).await else { return };
    let [(_, events), (gone, _)] = rooms;
    for table in ["events", "event_json", "event_edges"] {
        swept.change(&format!("delete from {table} where event_id = $1"), &events[20]).await;
    }
    swept.change("update events set outlier = true where event_id = $1", &events[30]).await;
    let reject = "update events set rejection_reason = 'auth_error' where event_id = $1";
    swept.change(reject, &events[40]).await;
    let mut pdu: serde_json::Value = serde_json::from_str(&events[50].pdu).unwrap();
    pdu["signatures"] = json!({"a.example": {"ed25519:other": "AAAA"}});
    let sql = format!("update event_json set json = '{pdu}' where event_id = $1");
    swept.change(&sql, &events[50]).await;
    for table in ["events", "event_json", "rooms"] {
        let sql = format!("delete from {table} where room_id = $1");
        swept.world.homeserver.client.execute(&sql, &[&gone.room_id]).await.unwrap();
    }
    swept.sweeps(3).await;
    swept.world.until_equal(&[]).await;
    let found = ["bytes", "outlier", "room", "superfluous", "verdict"];
    let found: BTreeMap<String, f64> = found.map(|it| (it.to_owned(), 1.0)).into();
    assert_eq!(swept.metrics.differences().await, found);
    swept.sweeps(3).await;
    assert_eq!(swept.metrics.differences().await, found, "nothing is found twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_deleted_and_joined_again_is_copied_anew() {
    let rooms = [room_with("room", 5)];
    let Some(mut swept) = Swept::start(&rooms).await else { return };
    let [(room, events)] = rooms;
    let client = &swept.world.homeserver.client;
    client.batch_execute("begin").await.unwrap();
    for table in ["events", "event_json", "event_edges"] {
        client.execute(&format!("delete from {table}"), &[]).await.unwrap();
    }
    for event in &events[..2] {
        let stored = Stored { outlier: true, ..Stored::default() };
        swept.world.homeserver.store(&room, event, swept.world.homeserver.draw(), stored).await;
    }
    let again = room.message(ALICE, "after the return").after(events.last()).finish();
    let homeserver = &swept.world.homeserver;
    homeserver.store(&room, &again, homeserver.draw(), Stored::default()).await;
    homeserver.invalidate("dr_cache_fake", &[&room.room_id]).await;
    client.batch_execute("commit").await.unwrap();
    swept.world.until_equal(&[]).await;
    assert_eq!(swept.metrics.differences().await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn purged_events_are_cut_off() {
    let rooms = [room_with("room", 10)];
    let Some(mut swept) = Swept::start(&rooms).await else { return };
    let [(room, events)] = rooms;
    let client = &swept.world.homeserver.client;
    client.batch_execute("begin").await.unwrap();
    for event in &events[..5] {
        swept.change("update events set outlier = true where event_id = $1", event).await;
        swept.world.homeserver.invalidate("_get_state_group_for_event", &[&event.event_id]).await;
    }
    for table in ["events", "event_json", "event_edges"] {
        swept.change(&format!("delete from {table} where event_id = $1"), &events[5]).await;
    }
    let keys: [&str; 2] = [&room.room_id, &events[5].event_id];
    swept.world.homeserver.invalidate("have_seen_event", &keys).await;
    swept.world.homeserver.invalidate("ph_cache_fake", &[&room.room_id]).await;
    client.batch_execute("commit").await.unwrap();
    swept.world.until_equal(&[]).await;
    assert_eq!(swept.metrics.differences().await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_rooms_have_everything() {
    let Some(world) = World::start().await else { return };
    let (room, events) = room_with("room", 3);
    let homeserver = &world.homeserver;
    homeserver.room(&room).await;
    homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    let odd = room.message(ALICE, "\0 and").after_id("$missing").finish();
    let stored = Stored { soft_failed: true, state_group: Some(2), ..Stored::default() };
    homeserver.store(&room, &odd, homeserver.draw(), stored).await;
    let client = &homeserver.client;
    let (create, join) = (&events[0].event_id, &events[1].event_id);
    let sql = "insert into state_groups_state values (1, 'm.room.create', '', $1), \
               (1, 'm.room.member', '@alice:a.example', 'older'), \
               (2, 'm.room.member', '@alice:a.example', $2)";
    client.execute(sql, &[create, join]).await.unwrap();
    let sql = "insert into state_group_edges values (2, 1); \
               insert into erased_users values ('@alice:a.example'), ('@other:a.example')";
    client.batch_execute(sql).await.unwrap();
    let unsigned = "update event_json set json = '{\"unsigned\":{\"age\":1},' || substr(json, 2) \
                    where event_id = $1";
    let changed = client.execute(unsigned, &[&events[2].event_id]).await.unwrap();
    assert_eq!(changed, 1);
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
    command.env_clear().args(["export", "--all", "--database"]);
    command.arg(world.postgres.url("reader", "synapse")).arg("--to").arg(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (file, rest) = printed.trim().split_once(' ').unwrap();
    assert_eq!(rest, format!("{} {}", events.len() + 1, room.room_id));
    let text = fs::read_to_string(file).unwrap();
    let (header, lines) = Reader::open(text.as_bytes()).unwrap();
    assert_eq!(header.room_id, room.room_id);
    assert_eq!(header.erased_users, ["@alice:a.example"]);
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    let all: Vec<&Event> = events.iter().chain([&odd]).collect();
    for (line, event) in lines.iter().zip(&all) {
        assert_eq!((&line.event_id, line.pdu.get()), (&event.event_id, event.pdu.as_str()));
    }
    assert_eq!(lines.len(), all.len());
    let last = lines.last().unwrap();
    assert_eq!((last.soft_failed, last.rejected, last.outlier), (true, false, false));
    // Only the first event has its number in the file; the reader numbers those after it.
    assert_eq!(text.matches(r#""arrival":"#).count(), 1, "{text}");
    assert!(lines.iter().zip(1..).all(|(line, number)| line.arrival == Some(number)));
    assert_eq!(last.state_after, [create.clone(), join.clone()]);
}
