//! A damaged record that follows from sound records is, after a repair, what it was before. Lost
//! records are left alone, and no hidden event is shown.

use std::{collections::BTreeMap, env};

use super::*;
use crate::{
    context::Context,
    state::map,
    store::{
        Arrival, Edit, EventNode, EventNum, Follower, Judged as _, Judgement, PrevEvent, Room,
        StateNum, View as _,
    },
    verify::tests::{faults, opened_again, store_of},
};

/// Stores that are damaged at random for each room, unless `BACKSCROLL_REPAIR_ROUNDS` is set.
const ROUNDS: usize = 24;

/// Everything about a room but the numbers of its states, which a repair may change.
#[derive(Debug, PartialEq)]
struct Visible {
    events: Vec<Option<(EventNode, BTreeMap<map::MapKey, map::Value>)>>,
    room: Room,
    current: BTreeMap<map::MapKey, map::Value>,
    gaps: Vec<String>,
    arrivals: Vec<Arrival>,
}

fn visible(cx: &Context, room_id: &str) -> Visible {
    let number = cx.store.room_num(room_id).unwrap().unwrap();
    let mut room = cx.store.room(number).unwrap();
    let nodes = cx.store.states(number);
    let state = |it: Option<StateNum>| -> BTreeMap<_, _> {
        let entries = it.map(|it| map::entries(&nodes, it.root(), None, usize::MAX).unwrap());
        entries.unwrap_or_default().into_iter().collect()
    };
    let topology = cx.store.topology(number);
    let event = |event| {
        let mut node = topology.node(event).unwrap()?;
        let state = state(node.state_after);
        node.state_after = node.state_after.map(|_| StateNum(0));
        Some((node, state))
    };
    let events = (0..room.next_event.0).map(EventNum).map(event).collect();
    let current = state(room.current_state);
    let arrivals = cx.store.by_arrival(number, &room, None, usize::MAX).unwrap();
    room.next_state = StateNum(0);
    room.current_state = None;
    room.resolved_from.clear();
    let gaps = cx.store.backward_extremities(number, usize::MAX).unwrap();
    Visible { events, room, current, gaps, arrivals }
}

fn mended(cx: &Context) -> Repaired {
    repair(&cx.store, 0, &mut |_| {}).unwrap()
}

/// Damages a room through the store's own writer, and asserts that a repair restores it.
#[track_caller]
fn is_restored(room: &str, damage: impl FnOnce(&mut Edit<'_>)) {
    let (dir, cx, room_id) = store_of(room);
    let before = visible(&cx, &room_id);
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    damage(&mut edit);
    edit.commit().unwrap();
    let cx = opened_again(&dir, cx);
    assert_ne!(faults(&cx), Vec::<String>::new(), "no record is damaged");
    let outcome = mended(&cx);
    assert_eq!(outcome.left, []);
    assert_ne!(outcome.mended, []);
    let cx = opened_again(&dir, cx);
    assert_eq!(faults(&cx), Vec::<String>::new());
    assert_eq!(visible(&cx, &room_id), before);
    assert_eq!(mended(&cx).mended, []);
}

fn node_is_restored(room: &str, event: u32, damage: impl Fn(&mut EventNode)) {
    is_restored(room, |edit| {
        let mut node = edit.node(EventNum(event)).unwrap();
        damage(&mut node);
        edit.put_node(EventNum(event), node).unwrap();
    });
}

/// The id of a room's event with a number.
fn event_id(edit: &Edit<'_>, event: u32) -> String {
    edit.body(edit.room_num(), EventNum(event)).unwrap().event_id
}

#[test]
fn a_sound_store_stays_as_it_is() {
    for room in ["chaos0-v10", "visibility-v10-seen-by-hs2", "powerfork-v12", "redactions-v11"] {
        let (_dir, cx, room_id) = store_of(room);
        let before = visible(&cx, &room_id);
        let outcome = mended(&cx);
        assert_eq!((outcome.mended, outcome.left), (vec![], vec![]), "{room}");
        assert_eq!(visible(&cx, &room_id), before, "{room}");
    }
}

#[test]
fn counters_extremities_and_flags_are_counted_again() {
    let counters = |edit: &mut Edit<'_>| {
        edit.room.rejected += 1;
        edit.room.outliers += 7;
        edit.room.unreadable += 2;
        edit.room.soft_failed = 400;
        edit.room.purged += 1;
        edit.room.listed_arrivals += 3;
    };
    is_restored("chaos0-v10", counters);
    is_restored("chaos0-v10", |edit| edit.room.forward_extremities = 0);
    is_restored("chaos0-v10", |edit| {
        let listed = edit.extremities(edit.room_num(), 9).unwrap();
        listed.into_iter().for_each(|it| edit.remove_extremity(it));
    });
    is_restored("chaos0-v10", |edit| edit.room.next_arrival = 3);
    is_restored("chaos0-v10", |edit| edit.room.last_known = vec![StateNum(0)]);
    is_restored("chaos0-v10", |edit| edit.room.current_state = Some(StateNum(0)));
    node_is_restored("chaos0-v10", 30, |it| it.flags.followed = !it.flags.followed);
}

#[test]
fn records_that_follow_from_bodies_are_derived_again() {
    node_is_restored("chaos0-v10", 30, |it| it.depth += 1);
    node_is_restored("chaos0-v10", 30, |it| {
        it.prev_events = vec![PrevEvent::Held(EventNum(1)); it.prev_events.len()];
    });
    node_is_restored("chaos0-v10", 30, |it| it.prev_events = vec![PrevEvent::Missing]);
    node_is_restored("chaos0-v10", 30, |it| it.prev_events.clear());
    is_restored("chaos0-v10", |edit| {
        for (event, prev) in [(30, 31), (31, 30)] {
            let mut node = edit.node(EventNum(event)).unwrap();
            node.prev_events = vec![PrevEvent::Held(EventNum(prev))];
            edit.put_node(EventNum(event), node).unwrap();
        }
    });
    // An event is missing in the list of arrivals.
    let (dir, cx, room_id) = store_of("chaos0-v10");
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    let node = edit.node(EventNum(30)).unwrap();
    edit.put_node(EventNum(30), EventNode { arrival: 1_000, ..node }).unwrap();
    edit.commit().unwrap();
    mended(&cx);
    let before = visible(&cx, &room_id);
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    edit.remove_arrival(EventNum(30), 1_000);
    edit.commit().unwrap();
    let cx = opened_again(&dir, cx);
    assert_eq!((mended(&cx).mended.len(), visible(&cx, &room_id)), (1, before));
    // An id that refers to another event, or to one that does not exist.
    for elsewhere in [EventNum(31), EventNum(100_000)] {
        is_restored("chaos0-v10", |edit| edit.lead(&event_id(edit, 30), elsewhere));
    }
    is_restored("visibility-v10-seen-by-hs2", |edit| {
        let gap = edit.backward_extremities(edit.room_num(), 1).unwrap().remove(0);
        for Follower { event: follower, .. } in
            edit.followers_of_missing(edit.room_num(), &gap, 99).unwrap()
        {
            edit.remove_missing(&gap, follower);
        }
    });
}

#[test]
fn states_are_derived_again_from_their_predecessors() {
    for room in ["chaos0-v10", "chaos6-v12", "powerfork-v12", "visibility-v10-seen-by-hs2"] {
        let (_dir, cx, room_id) = store_of(room);
        let number = cx.store.room_num(&room_id).unwrap().unwrap();
        let known = |it: &u32| {
            let node = cx.store.topology(number).node(EventNum(*it)).unwrap();
            node.is_some_and(|it| it.state_after.is_some() && it.state_after != Some(StateNum(0)))
        };
        let last = cx.store.room(number).unwrap().next_event.0;
        let some: Vec<u32> = (0..last).filter(known).collect();
        let middle = some[some.len() / 2];
        node_is_restored(room, middle, |it| it.state_after = Some(StateNum(0)));
        node_is_restored(room, middle, |it| it.state_after = None);
        // Records with nodes that many states share.
        let records = cx.store.state_nums(number, None, usize::MAX).unwrap();
        let used = |it: &StateNum| {
            let event = |event| cx.store.topology(number).node(EventNum(event)).unwrap();
            (0..last).filter_map(event).any(|node| node.state_after == Some(*it))
        };
        let some: Vec<StateNum> = records.into_iter().filter(used).collect();
        is_restored(room, |edit| {
            edit.remove_state(some[0]);
            edit.remove_state(some[some.len() / 3]);
        });
    }
    is_restored("chaos0-v10", |edit| edit.room.next_state = StateNum(1));
}

#[test]
fn redactions_take_effect_again_and_no_hidden_event_is_shown() {
    let (_dir, cx, room_id) = store_of("redactions-v11");
    let number = cx.store.room_num(&room_id).unwrap().unwrap();
    let topology = cx.store.topology(number);
    let is_redacted = |redacted| {
        let is = |it: &EventNode| !it.flags.outlier && it.flags.redacted == redacted;
        let node = |event| topology.node(EventNum(event)).unwrap();
        (0..).find(|event| node(*event).is_some_and(|it| is(&it))).unwrap()
    };
    let hidden = is_redacted(true);
    let shown = is_redacted(false);
    node_is_restored("redactions-v11", hidden, |it| it.flags.redacted = false);
    is_restored("redactions-v11", |edit| {
        let target = event_id(edit, hidden);
        for judged in Judgement::ALL {
            for redaction in edit.redactions_of(edit.room_num(), &target, judged, 99).unwrap() {
                edit.remove_redaction(&target, redaction, judged);
            }
        }
        let mut node = edit.node(EventNum(hidden)).unwrap();
        node.flags.redacted = false;
        edit.put_node(EventNum(hidden), node).unwrap();
    });

    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    let mut node = edit.node(EventNum(shown)).unwrap();
    node.flags.redacted = true;
    edit.put_node(EventNum(shown), node).unwrap();
    edit.commit().unwrap();
    let left = mended(&cx).left;
    assert_eq!(
        left.iter().map(|it| it.1).collect::<Vec<_>>(),
        [Unrepaired::StaysHidden],
        "{left:?}"
    );
    assert!(cx.store.topology(number).node(EventNum(shown)).unwrap().unwrap().flags.redacted);
}

#[test]
fn orphans_are_removed() {
    let beyond = EventNum(100_000);
    is_restored("chaos0-v10", |edit| edit.put_given_state(beyond, &[]));
    is_restored("chaos0-v10", |edit| edit.put_waiting(EventNum(3), beyond));
    is_restored("chaos0-v10", |edit| edit.put_redaction("$target", beyond, Judgement::Heeded));
    is_restored("chaos0-v10", |edit| edit.put_missing("$never", EventNum(3), 0));
    is_restored("chaos0-v10", |edit| edit.list_arrival(EventNum(3), 77));
    is_restored("chaos0-v10", |edit| {
        edit.add_event("$nothing");
        edit.room.next_event = EventNum(edit.room.next_event.0 - 1);
    });
}

#[test]
fn unused_states_are_reported_and_removed() {
    let (dir, cx, room_id) = store_of("chaos0-v10");
    mended(&cx);
    let number = cx.store.room_num(&room_id).unwrap().unwrap();
    let before = (visible(&cx, &room_id), cx.store.state_nums(number, None, usize::MAX).unwrap());
    // Unused states, as an interrupted purge leaves them.
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    let facts = edit.state_facts(number, before.1[0]).unwrap();
    let nodes = edit.state_record(number, before.1[0]).unwrap();
    edit.add_state(facts, &nodes);
    edit.add_state(facts, &nodes);
    edit.commit().unwrap();
    let outcome = mended(&cx);
    assert_eq!((outcome.unused_states, outcome.left.len(), outcome.mended.len()), (2, 0, 0));
    let cx = opened_again(&dir, cx);
    let number = cx.store.room_num(&room_id).unwrap().unwrap();
    assert_eq!(cx.store.state_nums(number, None, usize::MAX).unwrap(), before.1);
    assert_eq!(visible(&cx, &room_id), before.0);
}

/// Given states, and the states that a purge leaves, stay as they are.
#[test]
fn a_purged_room_is_restored() {
    let (dir, cx, room_id) = store_of("chaos6-v12");
    let number = cx.store.room_num(&room_id).unwrap().unwrap();
    let middle = cx.store.body(number, EventNum(40)).unwrap().event_id;
    let watch = &mut |_| ControlFlow::Continue(());
    let event_id = middle.as_str();
    let purged = ingest::PurgedHistory { room_id: &room_id, event_id, may_return: false };
    assert!(ingest::purge_history(&cx.store, purged, watch).unwrap().done);
    let before = visible(&cx, &room_id);
    assert!(before.events.iter().any(Option::is_none), "no event was purged");
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    for event in (0..edit.room.next_event.0).map(EventNum) {
        if let Some(mut node) = edit.find_node(event).unwrap() {
            node.depth += 1;
            node.state_after = None;
            edit.put_node(event, node).unwrap();
        }
    }
    edit.room.outliers = 0;
    edit.commit().unwrap();
    let cx = opened_again(&dir, cx);
    assert_eq!(mended(&cx).left, []);
    let cx = opened_again(&dir, cx);
    assert_eq!((faults(&cx), visible(&cx, &room_id)), (Vec::new(), before));
}

/// If a record of a room is lost, no other record of the room is derived again.
#[test]
fn a_room_with_a_lost_record_is_left_alone() {
    let damages: [fn(&mut Edit<'_>); 4] = [
        |edit| {
            let body = edit.body(edit.room_num(), EventNum(9)).unwrap();
            let text = String::from_utf8(body.pdu.to_vec()).unwrap().replacen("hs1", "hs2", 1);
            edit.put_body(EventNum(9), &body.event_id, text.as_bytes());
        },
        |edit| edit.put_body(EventNum(100_000), "$beyond", b"{}"),
        |edit| edit.room.next_event = EventNum(1),
        |edit| {
            let body = edit.body(edit.room_num(), EventNum(20)).unwrap();
            edit.put_body(EventNum(21), &body.event_id, &body.pdu);
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let (dir, cx, room_id) = store_of("chaos0-v10");
        let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
        damage(&mut edit);
        edit.room.rejected += 1;
        edit.commit().unwrap();
        let cx = opened_again(&dir, cx);
        let room = cx.store.room_num(&room_id).unwrap().unwrap();
        let (before, found) = (cx.store.room(room).unwrap(), faults(&cx));
        let Repaired { mended, left, .. } = mended(&cx);
        assert_eq!(mended, [], "{number}");
        assert!(left.iter().any(|(_, why)| *why == Unrepaired::Lost), "{number}: {left:?}");
        assert!(left.iter().any(|(_, why)| *why == Unrepaired::WithTheRoom), "{number}: {left:?}");
        let cx = opened_again(&dir, cx);
        let room = cx.store.room_num(&room_id).unwrap().unwrap();
        assert_eq!((cx.store.room(room).unwrap(), faults(&cx)), (before, found), "{number}");
    }
}

fn reported(cx: &Context) -> BTreeSet<Fault> {
    Found::verify(&cx.store, 0, &mut |_| {}).unwrap().faults
}

/// Whichever records are lost or changed: a repair restores the room as it was, or faults are still
/// reported; and no hidden event is shown.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn damage_at_random_is_repaired_or_still_reported() {
    let rounds = env::var("BACKSCROLL_REPAIR_ROUNDS").map_or(ROUNDS, |it| it.parse().unwrap());
    let mut repaired = 0;
    let mut still = 0;
    for room in ["redactions-v11", "powerfork-v12", "visibility-v10-seen-by-hs2"] {
        for round in 0..rounds {
            let (dir, cx, room_id) = store_of(room);
            let before = visible(&cx, &room_id);
            let mut number: usize = 7_919 * (round + 1);
            let damages: Vec<String> = (0..=round % 3)
                .map(|_| {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let bit = (number >> 40) & 0xffff;
                    cx.store.damage(number >> 33, bit.is_multiple_of(2).then_some(bit))
                })
                .collect();
            let cx = opened_again(&dir, cx);
            let found = reported(&cx);
            let left = mended(&cx).left;
            let cx = opened_again(&dir, cx);
            let what = format!("{round} {damages:?}: {found:?}; {left:?}");
            assert_eq!(reported(&cx).is_empty(), left.is_empty(), "{what}");
            if !left.is_empty() {
                let number = cx.store.room_num(&room_id).ok().flatten();
                let topology = number.map(|it| cx.store.topology(it));
                for (event, before) in (0..).map(EventNum).zip(&before.events) {
                    let after = topology.as_ref().and_then(|it| it.node(event).ok().flatten());
                    if let (Some(after), Some((before, _))) = (after, before) {
                        assert!(after.flags.redacted || !before.flags.redacted, "{what}");
                    }
                }
                still += 1;
                continue;
            }
            repaired += 1;
            let mut after = visible(&cx, &room_id);
            for (after, before) in after.events.iter_mut().zip(&before.events) {
                if let (Some((after, _)), Some((before, _))) = (after, before) {
                    assert!(after.flags.redacted || !before.flags.redacted, "{what}");
                    after.flags.redacted = before.flags.redacted;
                }
            }
            assert_eq!(after, before, "{what}");
        }
    }
    println!("{repaired} were repaired, {still} were still reported");
    assert!(repaired > rounds / 2 && still > rounds / 2, "{repaired} {still}");
}

/// An unreadable event whose predecessor is not stored: the current state is not known.
#[test]
fn states_that_were_known_last_are_kept_or_close_the_room() {
    let (_dir, cx, room_id) = store_of("chaos0-v10");
    let number = cx.store.room_num(&room_id).unwrap().unwrap();
    let last = cx.store.room(number).unwrap().current_state.unwrap();
    let odd = ingest::NewEvent {
        kept: "",
        room_id: &room_id,
        room_version: "10",
        event_id: "$odd",
        pdu: br#"{"prev_events":["$not-held"]}"#,
        verdict: ingest::Verdict::Accepted,
        outlier: false,
        state_after: &[],
        arrival: None,
        replace: ingest::Replace::Never,
    };
    let outcome = ingest::append_unflushed(&cx, &odd).unwrap();
    assert!(
        matches!(outcome, ingest::Outcome::Appended { state_unknown: true, .. }),
        "{outcome:?}"
    );
    let room = || cx.store.room(number).unwrap();
    assert_eq!((room().current_state, room().last_known, room().unreadable), (None, vec![last], 1));
    assert_eq!(faults(&cx), Vec::<String>::new());
    let outcome = mended(&cx);
    assert_eq!((outcome.mended, outcome.left), (vec![], vec![]));
    assert_eq!(room().last_known, [last]);

    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    edit.room.last_known.push(edit.next_state());
    edit.commit().unwrap();
    let outcome = mended(&cx);
    assert_eq!((outcome.mended.len(), outcome.left), (1, vec![]));
    assert_eq!(room().last_known, []);
    assert_eq!(faults(&cx), Vec::<String>::new());
}
