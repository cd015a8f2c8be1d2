//! The program against a real PostgreSQL with the tables of Synapse, and the real history service.
//! PostgreSQL must be installed (Debian: `postgresql`); without it the tests say so and pass.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod away;
mod export;
mod history;
mod homeserver;
mod large;
mod sweep;
mod world;

use std::process::Command;

use backscroll::proto::v1::NotServedReason;
use backscroll_testkit::{
    postgres::Postgres,
    room::{Event, Room},
};
use serde_json::json;

use self::{
    homeserver::{Stored, insert},
    world::World,
};

const ALICE: &str = "@alice:a.example";

/// A room with some messages, each after the one before.
fn room_with(name: &str, messages: usize) -> (Room, Vec<Event>) {
    let (room, create) = Room::named("10", ALICE, name);
    let join = room.member(ALICE, ALICE, "join").after([&create]);
    let join = join.authorised_by([create.event_id.clone()]).finish();
    let mut events = vec![create, join];
    for number in 0..messages {
        let message = next(&room, &events, &format!("message {number}"));
        events.push(message);
    }
    (room, events)
}

/// A message after the last event.
fn next(room: &Room, events: &[Event], body: &str) -> Event {
    let authorised = events.iter().take(2).map(|it| it.event_id.clone());
    room.message(ALICE, body).after(events.last()).authorised_by(authorised).finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_copied_and_followed() {
    let Some(mut world) = World::start().await else { return };
    let mut rooms = Vec::new();
    for number in 0..5 {
        let (room, events) = room_with(&format!("r{number}"), 10 * number);
        world.homeserver.room(&room).await;
        world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
        rooms.push((room, events));
    }
    world.follow();
    world.until_equal(&[]).await;
    world.until("the follower is ready", World::is_ready).await;
    let (room, events) = rooms.last_mut().unwrap();
    let odd = room.message(ALICE, "\0 and").after(events.last()).finish();
    let rejected = next(room, events, "rejected");
    let soft_failed = next(room, events, "soft-failed");
    let stored = Stored { rejected: true, ..Stored::default() };
    world.homeserver.store(room, &rejected, world.homeserver.draw(), stored).await;
    let stored = Stored { soft_failed: true, ..Stored::default() };
    world.homeserver.store(room, &soft_failed, world.homeserver.draw(), stored).await;
    world.homeserver.store(room, &odd, world.homeserver.draw(), Stored::default()).await;
    let (new, events) = room_with("new", 3);
    world.homeserver.room(&new).await;
    world.homeserver.send(&new, &events.iter().collect::<Vec<_>>()).await;
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_committed_late_by_another_writer_is_taken() {
    let Some(mut world) = World::start().await else { return };
    let (room, mut events) = room_with("room", 2);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    world.follow();
    world.until_equal(&[]).await;
    let late = next(&room, &events, "late");
    let writer = world.postgres.connect("synapse").await;
    writer.batch_execute("begin").await.unwrap();
    insert(&writer, &room, &late, world.homeserver.draw(), Stored::default()).await;
    events.push(next(&room, &events, "early"));
    world.homeserver.send(&room, &[events.last().unwrap()]).await;
    world.until_equal(&[]).await;
    writer.batch_execute("commit").await.unwrap();
    world.until_equal(&[]).await;
    let (backfilled, ordering) = (next(&room, &events, "backfilled"), -3);
    world.homeserver.store(&room, &backfilled, ordering, Stored::default()).await;
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_events_are_replaced() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room_with("room", 2);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    let outlier = next(&room, &events, "outlier");
    let ordering = world.homeserver.draw();
    let stored = Stored { outlier: true, ..Stored::default() };
    world.homeserver.store(&room, &outlier, ordering, stored).await;
    world.follow();
    world.until_equal(&[]).await;
    let client = &world.homeserver.client;
    let changed = &events[3];
    let mut pdu: serde_json::Value = serde_json::from_str(&changed.pdu).unwrap();
    pdu["signatures"] = json!({"a.example": {"ed25519:other": "AAAA"}});
    let sql = "update event_json set json = $2 where event_id = $1";
    client.execute(sql, &[&changed.event_id, &pdu.to_string()]).await.unwrap();
    world.homeserver.invalidate("_get_event_cache", &[&changed.event_id]).await;
    world.until_equal(&[]).await;
    let client = &world.homeserver.client;
    let sql = "update events set outlier = false where event_id = $1";
    client.execute(sql, &[&outlier.event_id]).await.unwrap();
    let sql = "insert into ex_outlier_stream values ($1, $2, 1, 'master')";
    client.execute(sql, &[&world.homeserver.draw(), &outlier.event_id]).await.unwrap();
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_with_partial_state_wait_and_blocked_rooms_are_not_served() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room_with("room", 2);
    let (blocked, blocked_events) = room_with("blocked", 2);
    for (room, events) in [(&room, &events), (&blocked, &blocked_events)] {
        world.homeserver.room(room).await;
        world.homeserver.send(room, &events.iter().collect::<Vec<_>>()).await;
    }
    world.follow();
    world.until_equal(&[]).await;
    let (partial, events) = room_with("partial", 2);
    let client = &world.homeserver.client;
    let sql = "insert into partial_state_rooms values ($1)";
    client.execute(sql, &[&partial.room_id]).await.unwrap();
    let sql = "insert into blocked_rooms values ($1)";
    client.execute(sql, &[&blocked.room_id]).await.unwrap();
    world.homeserver.room(&partial).await;
    world.homeserver.send(&partial, &events.iter().collect::<Vec<_>>()).await;
    world
        .until("both are marked", async |world| {
            let reasons: Vec<NotServedReason> = world.not_served().await.into_values().collect();
            reasons == [NotServedReason::Blocked, NotServedReason::PartialState]
        })
        .await;
    let held = world.held().await;
    assert!(held.keys().all(|(room_id, _)| *room_id != partial.room_id));
    let client = &world.homeserver.client;
    client
        .batch_execute("delete from partial_state_rooms; delete from blocked_rooms")
        .await
        .unwrap();
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_follower_and_database_are_killed() {
    let Some(mut world) = World::start().await else { return };
    let mut rooms = Vec::new();
    for number in 0..4 {
        let (room, events) = room_with(&format!("r{number}"), 100);
        world.homeserver.room(&room).await;
        world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
        rooms.push((room, events));
    }
    for round in 0..6 {
        world.follow();
        for (room, events) in &mut rooms {
            events.push(next(room, events, "more"));
            world.homeserver.send(room, &[events.last().unwrap()]).await;
        }
        let held = 40 * round;
        world.until("some events are held", async |world| world.held().await.len() > held).await;
        if round % 2 == 1 {
            world.postgres.crash();
            let World { homeserver, postgres, .. } = &mut world;
            homeserver.reconnect(postgres).await;
        }
        world.kill();
    }
    world.follow();
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_is_refused() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room_with("room", 2);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    world.follow();
    world.until_equal(&[]).await;
    world.kill();
    let postgres = world.postgres.connect("postgres").await;
    let close = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'synapse'";
    postgres.batch_execute(close).await.unwrap();
    let copy = "alter database synapse rename to old";
    postgres.batch_execute(copy).await.unwrap();
    postgres.batch_execute("create database synapse template old").await.unwrap();
    let output = world.command().output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--accept-other-database"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_is_compared() {
    let Some(mut world) = World::start().await else { return };
    let (room, mut events) = room_with("room", 5);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    world
        .homeserver
        .client
        .batch_execute("create table old as select * from events")
        .await
        .unwrap();
    let (old, position) = (events.len(), i64::try_from(events.len()).unwrap());
    for number in 0..3 {
        events.push(next(&room, &events, &format!("lost {number}")));
    }
    world.homeserver.send(&room, &events[old..].iter().collect::<Vec<_>>()).await;
    world.follow();
    world.until_equal(&[]).await;
    let lost: Vec<&str> = events[old..].iter().map(|it| it.event_id.as_str()).collect();
    for table in ["events", "event_json", "event_edges"] {
        let sql = format!("delete from {table} where event_id = any($1)");
        world.homeserver.client.execute(&sql, &[&lost]).await.unwrap();
    }
    world.homeserver.position("events", "master", position).await;
    world.until_equal(&[]).await;
    world.until("the follower is ready again", World::is_ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_prints_what_must_be_mended() {
    let Some(postgres) = Postgres::start() else { return };
    let homeserver = homeserver::Homeserver::start(&postgres).await;
    let check = |role: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
        command.env_clear().args(["check", "--database", &postgres.url(role, "synapse")]);
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = check("reader");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check("owner");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("superuser"), "{text}");
    let change = "revoke select on event_edges from reader; grant delete on rooms to reader";
    homeserver.client.batch_execute(change).await.unwrap();
    let (code, text) = check("reader");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("grant select on event_edges to reader;"), "{text}");
    assert!(
        text.contains("revoke insert, update, delete, truncate on rooms from reader;"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_is_printed_can_follow() {
    let Some(postgres) = Postgres::start() else { return };
    let homeserver = homeserver::Homeserver::start(&postgres).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
    let printed = command.env_clear().args(["check", "--role-sql"]).output().unwrap();
    assert!(printed.status.success());
    let sql = String::from_utf8(printed.stdout).unwrap().replace(":'password'", "'secret'");
    homeserver.client.batch_execute(&sql).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
    command.env_clear().args(["check", "--database"]);
    command.arg(postgres.url("backscroll_follower", "synapse"));
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{text}");
}
