//! Conflicts that are small enough to be resolved by hand, in room versions with different algorithms.

use std::{cell::Cell, collections::BTreeSet};

use ruma::{EventId, events::StateEventType};
use serde_json::json;

use super::drawing::{ALICE, BOB, CAROL, Drawing, Tip, id, member, power, topic};
use crate::state::resolution::{Conflict, ResolveError, StateMap, resolve, resolve_conflict};

/// One version for each of the three algorithms, and the ends of version 2.
const VERSIONS: [&str; 5] = ["1", "2", "6", "11", "12"];

/// start ◄─ early (depth 7) ◄─ deep (depth 8)
///      ▲── late  (depth 7), by the clock after `deep`
#[test]
fn of_two_topics_version_1_takes_the_deeper_and_version_2_the_later() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let early = room.send(&start, topic("early", ALICE));
        let deep = room.send(&early, topic("deep", ALICE));
        let late = room.send(&start, topic("late", ALICE));
        let expected = if version == "1" { "deep" } else { "late" };
        assert_eq!(room.merge(&[&deep, &late]).name("m.room.topic", ""), Some(expected));
    }
}

/// start ◄─ demoted: Alice takes Bob's power
///      ▲── raised:  Bob lets only himself ban, before or after
#[test]
fn power_levels_of_the_more_powerful_win() {
    for version in VERSIONS {
        for bob_is_first in [true, false] {
            let (mut room, start) = Drawing::new(version);
            let demotion = room.power(0);
            let mut raise = room.power(50);
            raise["kick"] = 40.into();
            let (demoted, raised);
            if bob_is_first {
                raised = room.send(&start, power("raised", BOB, raise));
                demoted = room.send(&start, power("demoted", ALICE, demotion));
            } else {
                demoted = room.send(&start, power("demoted", ALICE, demotion));
                raised = room.send(&start, power("raised", BOB, raise));
            }
            let merged = room.merge(&[&demoted, &raised]);
            let in_order = merged.name("m.room.power_levels", "");
            assert_eq!(in_order, Some("demoted"), "version {version}");
        }
    }
}

/// start ◄─ ban of Bob
///      ▲── Bob changes his name ◄─ and sets a topic
#[test]
fn a_ban_wins_over_events_of_the_banned_user_meanwhile() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let banned = room.send(&start, member("ban", ALICE, BOB, "ban"));
        let renamed = room.send(&start, member("rename", BOB, BOB, "join"));
        let spoken = room.send(&renamed, topic("topic", BOB));
        let merged = room.merge(&[&banned, &spoken]);
        assert_eq!(merged.name("m.room.member", BOB), Some("ban"), "version {version}");
        // In version 1, an entry that one side lacks is not conflicted.
        let expected = (version == "1").then_some("topic");
        assert_eq!(merged.name("m.room.topic", ""), expected, "version {version}");
    }
}

/// start ◄─ topic by Alice
///      ▲── topic by Carol, who has no power to set one, later
#[test]
fn an_event_that_the_rules_refuse_does_not_win() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let alices = room.send(&start, topic("alices", ALICE));
        let carols = room.send(&start, topic("carols", CAROL));
        let merged = room.merge(&[&alices, &carols]);
        assert_eq!(merged.name("m.room.topic", ""), Some("alices"), "version {version}");
    }
}

/// start ◄─ one (depth 7)                         both by Carol, who may not
///      ▲── other (depth 7) ◄─ deeper (depth 8)
#[test]
fn if_the_rules_refuse_all_version_1_takes_the_shallowest_and_version_2_none() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let one = room.send(&start, topic("one", CAROL));
        let other = room.send(&start, topic("other", CAROL));
        let deeper = room.send(&other, topic("deeper", CAROL));
        let merged = room.merge(&[&one, &deeper]);
        let expected = (version == "1").then_some("one");
        assert_eq!(merged.name("m.room.topic", ""), expected, "version {version}");
    }
}

/// power ◄─ raised (Carol gets 50) ◄─ carols (by Carol)
///                               ▲── topic, in both states
///
/// One state has `carols`; the other was reset to `power` by an earlier fault, although its topic is
/// authorised by `raised`. So `raised` is in both auth chains, and only the subgraph of 2.1 contains
/// it; without it, Carol has no power.
#[test]
fn the_conflicted_subgraph_of_version_12_heals_a_state_reset() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let mut levels = room.power(50);
        levels["users"][CAROL] = 50.into();
        let raised = room.send(&start, power("raised", ALICE, levels.clone()));
        let with_topic = room.send(&raised, topic("topic", ALICE));
        levels["kick"] = 40.into();
        let carols = room.send(&with_topic, power("carols", CAROL, levels));
        let mut reset = with_topic.clone();
        reset.state.insert(("m.room.power_levels".to_owned(), String::new()), id("power"));
        let merged = room.merge(&[&carols, &reset]);
        let expected = if version == "12" { "carols" } else { "power" };
        let winner = merged.name("m.room.power_levels", "");
        assert_eq!(winner, Some(expected), "version {version}");
    }
}

/// start ◄─ invite ◄─ join of Dave      the invite is in no shared chain
///      ▲── topic
#[test]
fn a_join_survives_although_its_invite_is_on_one_side_only() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let dave = "@dave:d";
        let invited = room.send(&start, member("invite", ALICE, dave, "invite"));
        let joined = room.send(&invited, member("join", dave, dave, "join"));
        let other = room.send(&start, topic("topic", BOB));
        let merged = room.merge(&[&joined, &other]);
        assert_eq!(merged.name("m.room.member", dave), Some("join"), "version {version}");
        assert_eq!(merged.name("m.room.topic", ""), Some("topic"), "version {version}");
    }
}

#[test]
fn a_missing_event_cannot_win_and_is_reported() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let here = room.send(&start, topic("here", ALICE));
        let gone = room.send(&start, topic("gone", ALICE));
        room.events.remove(&id("gone"));
        let resolution = room.resolve(&[&here, &gone]);
        let merged = Tip { state: resolution.state, depth: 0 };
        assert_eq!(merged.name("m.room.topic", ""), Some("here"), "version {version}");
        assert_eq!(resolution.missing, BTreeSet::from([id("gone")]), "version {version}");

        room.events.clear();
        let resolution = room.resolve(&[&here, &gone]);
        assert!(!resolution.state.contains_key(&("m.room.topic".to_owned(), String::new())));
        assert!(resolution.state.contains_key(&("m.room.create".to_owned(), String::new())));
    }
}

/// power ◄─ power' ◄─ two topics, and the first of the two power levels is lost.
#[test]
fn a_gap_in_the_auth_chain_does_not_stop_the_room() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let levels = room.power(60);
        let start = room.send(&start, power("power2", ALICE, levels));
        let early = room.send(&start, topic("early", ALICE));
        let late = room.send(&start, topic("late", ALICE));
        let late = room.send(&late, topic("later", ALICE));
        room.events.remove(&id("power"));
        let resolution = room.resolve(&[&early, &late]);
        let merged = Tip { state: resolution.state, depth: 0 };
        assert_eq!(merged.name("m.room.topic", ""), Some("later"), "version {version}");
    }
}

#[test]
fn old_power_levels_with_fractions_are_read() {
    for version in ["1", "2", "5", "9"] {
        let (mut room, start) = Drawing::new(version);
        let levels = json!({"users": {ALICE: 100.0, BOB: "50", CAROL: null}, "ban": 50.5});
        let start = room.send(&start, power("power2", ALICE, levels));
        let banned = room.send(&start, member("ban", BOB, CAROL, "ban"));
        let renamed = room.send(&start, member("rename", CAROL, CAROL, "join"));
        let merged = room.resolve(&[&banned, &renamed]);
        let merged = Tip { state: merged.state, depth: 0 };
        assert_eq!(merged.name("m.room.member", CAROL), Some("ban"), "version {version}");
    }
}

/// early ─► late ─► early: possible where senders choose ids; the resolution must end all the same.
#[test]
fn power_levels_that_authorise_each_other_are_resolved() {
    for version in ["1", "2"] {
        let (mut room, start) = Drawing::new(version);
        let levels = room.power(50);
        let mut early = room.draft(&start, power("early", ALICE, levels.clone()));
        early.auth_events = vec![id("create"), id("late"), id("alice")];
        let early = room.add(&start, early);
        let late = room.send(&early, power("late", ALICE, levels));
        let one = room.send(&late, topic("one", BOB));
        let other = room.send(&early, topic("other", BOB));
        let resolution = room.resolve(&[&one, &other, &start]);
        assert_eq!(resolution.state.len(), start.state.len() + 1, "version {version}");
    }
}

#[test]
fn no_state_is_an_error_and_a_single_state_is_the_result() {
    let (room, start) = Drawing::new("10");
    let none = resolve(&room.rules, &[], &|_| None);
    assert!(matches!(none, Err(ResolveError::NoStates)));
    assert_eq!(room.resolve(&[&start]).state, start.state);
    assert_eq!(room.resolve(&[&start, &start]).state, start.state);
}

/// The walks must not recurse: a test's stack is 2 MiB, about 100 bytes for each step of this chain.
#[test]
fn a_long_auth_chain_is_walked_without_recursion() {
    for version in VERSIONS {
        let (mut room, start) = Drawing::new(version);
        let mut tip = start.clone();
        for step in 0..20_000 {
            let levels = room.power(step % 90);
            tip = room.send(&tip, power(&format!("power-{step}"), ALICE, levels));
        }
        let late = room.send(&tip, topic("late", ALICE));
        let stale = room.send(&start, topic("stale", ALICE));
        let merged = Tip { state: room.resolve(&[&late, &stale]).state, depth: 0 };
        let last = merged.name("m.room.power_levels", "");
        assert_eq!(last, Some("power-19999"), "version {version}");
    }
}

/// Two branches in a room with 20,000 members and 100 power levels: the cost depends on the two
/// branches, and in version 2 on the power levels.
#[test]
fn a_merge_in_a_large_room_needs_few_look_ups() {
    for version in VERSIONS {
        let (mut room, mut start) = Drawing::new(version);
        for step in 0..100 {
            let levels = room.power(step % 90);
            start = room.send(&start, power(&format!("power-{step}"), ALICE, levels));
        }
        for number in 0..20_000 {
            let user = format!("@user{number}:c");
            let joined = room.draft(&start, member(&user, &user, &user, "join"));
            start.state.insert(joined.key().unwrap(), joined.event_id.clone());
            room.events.insert(joined.event_id.clone(), joined.into());
        }
        let left = room.send(&start, member("ban", ALICE, BOB, "ban"));
        let right = room.send(&start, topic("topic", CAROL));
        let right = room.send(&right, member("rename", BOB, BOB, "join"));

        let of_conflict = |tip: &Tip| -> StateMap {
            let differs = |(key, id): &(&_, &_)| start.state.get(*key) != Some(*id);
            let mut part: StateMap = tip
                .state
                .iter()
                .filter(differs)
                .map(|(key, id)| (key.clone(), id.clone()))
                .collect();
            let bob = ("m.room.member".to_owned(), BOB.to_owned());
            part.insert(bob.clone(), tip.state[&bob].clone());
            part
        };
        let (looked_up, asked, fetched) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let conflict = Conflict {
            states: &[of_conflict(&left), of_conflict(&right)],
            unconflicted: &|event_type, state_key| {
                looked_up.set(looked_up.get() + 1);
                start.state.get(&(event_type.to_owned(), state_key.to_owned())).cloned()
            },
            in_unconflicted_chain: &|_| {
                asked.set(asked.get() + 1);
                BTreeSet::new()
            },
        };
        let fetch = |id: &EventId| {
            fetched.set(fetched.get() + 1);
            room.events.get(id).cloned()
        };
        let resolution = resolve_conflict(&room.rules, &conflict, &fetch).unwrap();
        let merged = Tip { state: resolution.state, depth: 0 };
        assert_eq!(merged.name("m.room.member", BOB), Some("ban"), "version {version}");
        assert!(looked_up.get() <= 12, "version {version}: {} look-ups", looked_up.get());
        // Version 2 follows the power levels back to the first.
        let most = if version == "1" { 12 } else { 112 };
        assert!(fetched.get() <= most, "version {version}: {} fetches", fetched.get());
        assert_eq!(asked.get(), 0, "version {version}");
    }
}

/// With certain features, ruma changes some unstable event types into others. Different state entries
/// would then have the same key.
#[test]
fn event_types_survive_ruma() {
    for name in [
        "m.room.topic",
        "m.beacon_info",
        "m.room.retention",
        "m.room.language",
        "m.member_hints",
        "m.call.member",
        "org.matrix.msc3672.beacon_info",
        "com.example.anything",
        "",
    ] {
        assert_eq!(StateEventType::from(name).to_string(), name);
        assert_eq!(ruma::events::TimelineEventType::from(name).to_string(), name);
    }
}
