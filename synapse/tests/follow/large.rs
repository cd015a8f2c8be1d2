//! Large rooms, states that are kept in another database, and rooms that cannot be copied.

use std::process::Command;

use backscroll::proto::v1::NotServedReason;
use backscroll_testkit::room::Room;

use crate::{ALICE, homeserver::Stored, next, room_with, world::World};

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_copied_in_several_parts() {
    let Some(mut world) = World::start().await else { return };
    // The follower reads up to 20,000 events at once.
    let (room, events) = room_with("large", 20_200);
    world.homeserver.room(&room).await;
    world.homeserver.send_many(&room, &events).await;
    world.follow();
    world.until("the room is marked", async |world| !world.not_served().await.is_empty()).await;
    world.until("the room is served", async |world| world.not_served().await.is_empty()).await;
    let late = next(&room, &events, "after the copy");
    world.homeserver.send(&room, &[&late]).await;
    world.until_equal(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_read_from_a_database_of_their_own() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room_with("room", 3);
    let homeserver = &world.homeserver;
    homeserver.room(&room).await;
    homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    let behind_gap = room.message(ALICE, "behind a gap").after_id("$missing").finish();
    let stored = Stored { state_group: Some(2), ..Stored::default() };
    homeserver.store(&room, &behind_gap, homeserver.draw(), stored).await;
    let create = "create database states template synapse";
    let owner = world.postgres.connect("postgres").await;
    let close = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'synapse'";
    owner.batch_execute(close).await.unwrap();
    owner.batch_execute(create).await.unwrap();
    let World { homeserver, postgres, .. } = &mut world;
    homeserver.reconnect(postgres).await;
    let drop_them = "drop table state_groups_state; drop table state_group_edges";
    homeserver.client.batch_execute(drop_them).await.unwrap();
    let states = postgres.connect("states").await;
    let (create, join) = (&events[0].event_id, &events[1].event_id);
    let sql = "insert into state_groups_state values (1, 'm.room.create', '', $1), \
               (2, 'm.room.member', '@alice:a.example', $2)";
    states.execute(sql, &[create, join]).await.unwrap();
    states.batch_execute("insert into state_group_edges values (2, 1)").await.unwrap();
    states.batch_execute("drop table events; drop table event_json").await.unwrap();

    let mut check = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
    check.env_clear().args(["check", "--database", &postgres.url("reader", "synapse")]);
    let output = check.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("give --state-database"), "{text}");

    let url = world.postgres.url("reader", "states");
    world.follow_with(&["--state-database", &url]);
    world.until_equal(&[]).await;
    let state = world.clients.state_after(&room.room_id, &behind_gap.event_id).await;
    assert_eq!(state, Some([create.clone(), join.clone()].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_cannot_be_held_is_not_served() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room_with("room", 3);
    let (other, others) = room_with("other", 3);
    for (room, events) in [(&room, &events), (&other, &others)] {
        world.homeserver.room(room).await;
        world.homeserver.send(room, &events.iter().collect::<Vec<_>>()).await;
    }
    let Room { room_id, .. } = &other;
    let sql = "update rooms set room_version = 'org.example.unknown' where room_id = $1";
    world.homeserver.client.execute(sql, &[room_id]).await.unwrap();
    world.follow();
    world.until_equal(&[room_id]).await;
    world
        .until("it is marked", async |world| {
            let reasons: Vec<NotServedReason> = world.not_served().await.into_values().collect();
            reasons == [NotServedReason::Differs]
        })
        .await;
    world.until_equal(&[room_id]).await;
    world.until("the follower is ready", World::is_ready).await;
}
