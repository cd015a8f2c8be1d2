//! Rooms that were exported from the database and imported elsewhere.

use std::{fs, process::Command};

use backscroll::cli::Cli;
use backscroll_testkit::room::{Event, Room};
use clap::Parser as _;
use serde_json::{Value, json};

use crate::{
    ALICE,
    history::{Clients, History},
    homeserver::Stored,
    world::World,
};

const BOB: &str = "@bob:b.example";

/// An event, and how the homeserver stores it.
struct StoredEvent {
    event: Event,
    stored: Stored,
}

/// A room whose state depends on everything that an export has to keep: a fork that is resolved, a
/// rejected and a soft-failed state event, an outlier, and an event after a gap.
fn room() -> (Room, Vec<StoredEvent>) {
    let (room, create) = Room::named("10", ALICE, "exported");
    let join = room.member(ALICE, ALICE, "join").after([&create]);
    let join = join.authorised_by([create.event_id.clone()]).finish();
    // The events that authorise an event of Alice.
    let by = |further: &[&Event]| -> Vec<String> {
        let events = [&create, &join].into_iter().chain(further.iter().copied());
        events.map(|it| it.event_id.clone()).collect()
    };
    let state = |kind: &str, content: Value| room.state(ALICE, kind, "", content);
    let levels = json!({"users": {ALICE: 100}, "state_default": 50});
    let levels =
        state("m.room.power_levels", levels).authorised_by(by(&[])).after([&join]).finish();
    let public = state("m.room.join_rules", json!({"join_rule": "public"}));
    let rules = public.authorised_by(by(&[&levels])).after([&levels]).finish();
    let of_bob = [&create, &levels, &rules].map(|it| it.event_id.clone());
    let bob = room.member(BOB, BOB, "join").after([&rules]).authorised_by(of_bob).finish();
    let topic = |text: &str, after: &[&Event]| {
        let draft = state("m.room.topic", json!({"topic": text}));
        draft.authorised_by(by(&[&levels])).after(after.iter().copied()).finish()
    };
    let left = topic("left", &[&bob]);
    let kick =
        room.member(ALICE, BOB, "leave").authorised_by(by(&[&levels, &bob])).after([&bob]).finish();
    let right = topic("right", &[&kick]);
    let of_bob = [&create, &levels, &bob].map(|it| it.event_id.clone());
    let late = room.message(BOB, "while kicked").after([&left]).authorised_by(of_bob.clone());
    let late = late.finish();
    let by_bob = room.state(BOB, "m.room.topic", "", json!({"topic": "without power"}));
    let rejected = by_bob.after([&left]).authorised_by(of_bob).finish();
    let soft_failed = topic("soft-failed", &[&right]);
    let merged = room.message(ALICE, "merged").authorised_by(by(&[&levels]));
    let merged = merged.after([&late, &rejected, &right]).finish();
    let after_soft = room.message(ALICE, "after").authorised_by(by(&[&levels]));
    let after_soft = after_soft.after([&soft_failed, &merged]).finish();
    let outlier = topic("outlier", &[&after_soft]);
    let gap = room.message(ALICE, "after a gap").authorised_by(by(&[&levels]));
    let gap = gap.after([&outlier]).after_id("$missing").finish();
    let last = room.message(ALICE, "last").authorised_by(by(&[&levels])).after([&gap, &after_soft]);
    let last = last.finish();
    let plain = [create, join, levels, rules, bob, left, kick, right, late];
    let plain = plain.map(|event| StoredEvent { event, stored: Stored::default() });
    let stored = Stored::default();
    let others = [
        StoredEvent { event: rejected, stored: Stored { rejected: true, ..stored } },
        StoredEvent { event: soft_failed, stored: Stored { soft_failed: true, ..stored } },
        StoredEvent { event: merged, stored },
        StoredEvent { event: after_soft, stored },
        StoredEvent { event: outlier, stored: Stored { outlier: true, ..stored } },
        StoredEvent { event: gap, stored: Stored { state_group: Some(1), ..stored } },
        StoredEvent { event: last, stored },
    ];
    (room, plain.into_iter().chain(others).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_export_has_the_states_that_were_followed() {
    let Some(mut world) = World::start().await else { return };
    let (room, events) = room();
    let homeserver = &world.homeserver;
    homeserver.room(&room).await;
    for StoredEvent { event, stored } in &events {
        homeserver.store(&room, event, homeserver.draw(), *stored).await;
    }
    homeserver.position("events", "master", homeserver.draw() - 1).await;
    // The state after the gap has neither the kick nor a topic.
    for StoredEvent { event, .. } in &events[..5] {
        let pdu: Value = serde_json::from_str(&event.pdu).unwrap();
        let (kind, key) = (pdu["type"].as_str(), pdu["state_key"].as_str());
        let sql = "insert into state_groups_state values (1, $1, $2, $3)";
        homeserver.client.execute(sql, &[&kind, &key, &event.event_id]).await.unwrap();
    }
    world.follow();
    world.until_equal(&[]).await;

    let files = world.folder().join("export");
    fs::create_dir(&files).unwrap();
    let mut export = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
    export.env_clear().args(["export", &room.room_id, "--database"]);
    export.arg(world.postgres.url("reader", "synapse")).arg("--to").arg(&files);
    let output = export.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let file = printed.split_once(' ').unwrap().0.to_owned();

    let other = History::start(&world.folder().join("other"), "127.0.0.1:0").await;
    let import = ["backscroll", "--log", "error", "import", "--server", &other.url(), &file];
    let import = import.map(str::to_owned);
    let import = Cli::try_parse_from(import).unwrap();
    let imported = tokio::task::spawn_blocking(|| import.start()).await.unwrap();
    assert!(imported.unwrap(), "some events were refused");

    let mut clients = Clients::connect(&other.url()).await;
    let mut known = 0;
    for StoredEvent { event, .. } in events.iter().filter(|it| !it.stored.outlier) {
        let followed = world.clients.state_after(&room.room_id, &event.event_id).await;
        let imported = clients.state_after(&room.room_id, &event.event_id).await;
        assert_eq!(followed, imported, "{}", event.pdu);
        known += usize::from(followed.is_some());
    }
    assert_eq!(known, events.len() - 1, "the state after each event but the outlier is known");
    other.stop().await;
}
