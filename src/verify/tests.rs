//! A sound store has no faults, whatever it contains; each kind of damage is reported.

use std::{fs::File, io::BufReader, path::Path};

use super::*;
use crate::{
    context::Context,
    ingest::{self, NewEvent, Outcome},
    room_format::Reader,
    state::map::Node,
    store::{Edit, EventNum, Judgement, Options, PrevEvent},
};

#[derive(Default)]
struct Found {
    events: u64,
    faults: Vec<String>,
}

impl Watch for Found {
    fn events(&mut self, count: u32) {
        self.events += u64::from(count);
    }

    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault.kind.to_string());
    }
}

/// A store that contains a recorded room, and the room's id.
pub(super) fn store_of(room: &str) -> (tempfile::TempDir, Context, String) {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let file = File::open(rooms.join(room).join("room.ndjson")).unwrap();
    let (header, lines) = Reader::open(BufReader::new(file)).unwrap();
    for line in lines {
        let line = line.unwrap();
        let event = NewEvent::of_line(&header, &line);
        assert!(matches!(ingest::append_unflushed(&cx, &event), Ok(Outcome::Appended { .. })));
    }
    (dir, cx, header.room_id)
}

pub(super) fn faults(cx: &Context) -> Vec<String> {
    let mut found = Found::default();
    assert!(verify(&cx.store, &mut found).unwrap().is_continue());
    assert_eq!(found.events, extent(&cx.store).unwrap());
    found.faults
}

#[test]
fn a_sound_store_has_no_faults() {
    let rooms = [
        "chaos0-v10",
        "chaos1-v2",
        "chaos6-v12",
        "erased-v10",
        "floats-v1",
        "forks-v2",
        "gap-v10-seen-by-hs2",
        "knock-v12-seen-by-hs2",
        "redactions-v1",
        "redactions-v11",
        "rejected-v10",
        "wide-v10",
    ];
    for room in rooms {
        let (_dir, cx, _) = store_of(room);
        assert_eq!(faults(&cx), Vec::<String>::new(), "{room}");
    }
}

/// Damages a store through its own writer, so that every checksum fits.
fn damaged(damage: impl FnOnce(&mut Edit<'_>)) -> Vec<String> {
    let (_dir, cx, room_id) = store_of("chaos0-v10");
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    damage(&mut edit);
    edit.commit().unwrap();
    faults(&cx)
}

fn damaged_node(event: u32, damage: impl FnOnce(&mut crate::store::EventNode)) -> Vec<String> {
    damaged(|edit| {
        let mut node = edit.node(EventNum(event)).unwrap();
        damage(&mut node);
        edit.put_node(EventNum(event), node).unwrap();
    })
}

#[track_caller]
fn reports(faults: &[String], text: &str) {
    assert!(faults.iter().any(|it| it.contains(text)), "{text}: {faults:?}");
}

#[test]
fn a_body_under_the_number_of_another_event_is_reported() {
    let found = damaged(|edit| {
        let body = edit.body(edit.room_num(), EventNum(20)).unwrap();
        edit.put_body(EventNum(21), &body.event_id, &body.pdu);
    });
    reports(&found, "is stored twice, as event 20 and as event 21");
}

#[test]
fn an_id_that_refers_to_another_event_is_reported() {
    let found = damaged(|edit| {
        let event_id = edit.body(edit.room_num(), EventNum(20)).unwrap().event_id;
        edit.lead(&event_id, EventNum(21));
    });
    reports(&found, "the id does not refer to the event");
}

#[test]
fn a_changed_body_is_reported() {
    let found = damaged(|edit| {
        let body = edit.body(edit.room_num(), EventNum(9)).unwrap();
        let text = String::from_utf8(body.pdu.to_vec()).unwrap().replacen("hs1", "hs2", 1);
        edit.put_body(EventNum(9), &body.event_id, text.as_bytes());
    });
    assert!(!found.is_empty());
}

/// Damages the records of a store without its writer.
fn damaged_below(damage: impl FnOnce(&Store, RoomNum)) -> Vec<String> {
    let (_dir, cx, room_id) = store_of("chaos0-v10");
    let room = cx.store.room_num(&room_id).unwrap().unwrap();
    damage(&cx.store, room);
    faults(&cx)
}

#[test]
fn a_damaged_block_is_reported() {
    let found = damaged_below(|store, room| store.damage_block(room, EventNum(40)));
    reports(&found, "damaged block (key 120000000000000001)");
}

#[test]
fn a_body_that_is_stored_twice_or_not_at_all_is_reported() {
    let twice = damaged_below(|store, room| store.double_body(room, EventNum(33)));
    assert_eq!(twice, ["event 33 has two bodies: one in its block and one of its own"]);
    let never = damaged_below(|store, room| store.lose_block(room, EventNum(33)));
    for event in 32..64 {
        reports(&never, &format!("damaged body (key 0500000000{event:08x})"));
    }
}

#[test]
fn changed_nodes_are_reported() {
    reports(&damaged_node(30, |it| it.depth += 1), "the depth differs from the depth in the body");
    let elsewhere = |it: &mut crate::store::EventNode| {
        it.prev_events = vec![PrevEvent::Held(EventNum(1)); it.prev_events.len()];
    };
    reports(&damaged_node(30, elsewhere), "refers to another event");
    let missing = |it: &mut crate::store::EventNode| {
        it.prev_events = vec![PrevEvent::Missing; it.prev_events.len()];
    };
    reports(&damaged_node(30, missing), "is in the graph, but the edge to it is marked as missing");
    let states = |it: &mut crate::store::EventNode| it.state_after = None;
    reports(
        &damaged_node(30, states),
        "the state after the event could be known, but is not stored",
    );
    let first_state = |it: &mut crate::store::EventNode| {
        it.state_after = Some(crate::store::StateNum(0));
    };
    reports(
        &damaged_node(30, first_state),
        "the state after the event does not follow from the graph",
    );
    let redacted = |it: &mut crate::store::EventNode| it.flags.redacted = !it.flags.redacted;
    reports(&damaged_node(30, redacted), "is hidden as redacted, but no stored redaction hides it");
    let followed = |it: &mut crate::store::EventNode| it.flags.followed = !it.flags.followed;
    reports(
        &damaged_node(30, followed),
        "the flag for events that an accepted event follows is wrong",
    );
}

#[test]
fn a_cycle_is_reported() {
    let found = damaged(|edit| {
        for (event, prev) in [(30, 31), (31, 30)] {
            let mut node = edit.node(EventNum(event)).unwrap();
            node.prev_events = vec![PrevEvent::Held(EventNum(prev))];
            edit.put_node(EventNum(event), node).unwrap();
        }
    });
    reports(&found, "is its own predecessor");
}

#[test]
fn wrong_counters_and_extremities_are_reported() {
    reports(&damaged(|edit| edit.room.rejected += 1), "rejected events, but its record counts");
    reports(&damaged(|edit| edit.room.outliers += 1), "outliers, but its record counts");
    reports(&damaged(|edit| edit.room.unreadable += 1), "unreadable events, but its record counts");
    let kept = |edit: &mut Edit<'_>| edit.room.last_known.extend(edit.room.current_state);
    reports(&damaged(kept), "the states that were known last are stored");
    let lost = |edit: &mut Edit<'_>| edit.room.last_known = vec![edit.next_state()];
    reports(&damaged(lost), "the states that were known last cannot be read");
    reports(
        &damaged(|edit| edit.room.next_arrival = 3),
        "the next position in the order of arrival is taken",
    );
    let none = |edit: &mut Edit<'_>| edit.room.forward_extremities = 0;
    reports(&damaged(none), "the list of forward extremities does not follow from the graph");
    let none = |edit: &mut Edit<'_>| {
        let listed = edit.extremities(edit.room_num(), 9).unwrap();
        listed.into_iter().for_each(|it| edit.remove_extremity(it));
    };
    reports(&damaged(none), "the list of forward extremities does not follow from the graph");
    let current = |edit: &mut Edit<'_>| {
        edit.room.current_state = Some(crate::store::StateNum(0));
    };
    reports(&damaged(current), "the current state does not follow from the forward extremities");
    let arrival = |edit: &mut Edit<'_>| {
        let node = edit.node(EventNum(30)).unwrap();
        edit.put_node(EventNum(30), crate::store::EventNode { arrival: 1_000, ..node }).unwrap();
        edit.remove_arrival(EventNum(30), 1_000);
    };
    reports(&damaged(arrival), "is not in the list of arrivals");
    let note = |edit: &mut Edit<'_>| edit.put_missing("$never", EventNum(3), 0);
    reports(&damaged(note), "a missing predecessor is noted where none is missing");
}

#[test]
fn orphans_are_reported() {
    let beyond = EventNum(100_000);
    let body = |edit: &mut Edit<'_>| edit.put_body(beyond, "$beyond", b"{}");
    reports(&damaged(body), "a record of an event that is not held");
    let given = |edit: &mut Edit<'_>| edit.put_given_state(beyond, &[]);
    reports(&damaged(given), "a record of an event that is not held");
    let waiting = |edit: &mut Edit<'_>| edit.put_waiting(EventNum(3), beyond);
    reports(&damaged(waiting), "a note about an event that is not held");
    let redaction = |edit: &mut Edit<'_>| edit.put_redaction("$target", beyond, Judgement::Heeded);
    reports(&damaged(redaction), "a record of an event that is not held");
    let states = |edit: &mut Edit<'_>| edit.room.next_state = crate::store::StateNum(1);
    reports(&damaged(states), "a state whose number was never given");
    let events = |edit: &mut Edit<'_>| edit.room.next_event = EventNum(1);
    reports(&damaged(events), "a page of event numbers that were never given");
    let id = |edit: &mut Edit<'_>| {
        edit.add_event("$nothing");
        edit.room.next_event = EventNum(edit.room.next_event.0 - 1);
    };
    reports(&damaged(id), "an id leads to an event number that was never given");
}

#[test]
fn a_verification_stops_when_its_watcher_says_so() {
    struct Impatient(u32);
    impl Watch for Impatient {
        fn events(&mut self, _: u32) {}

        fn fault(&mut self, _: Fault) {}

        fn pause(&mut self) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let (_dir, cx, _) = store_of("chaos0-v10");
    let mut watch = Impatient(0);
    assert!(verify(&cx.store, &mut watch).unwrap().is_break());
    assert_eq!(watch.0, 3);
}

/// Opens a store again, so that no cache contains removed records.
pub(super) fn opened_again(dir: &tempfile::TempDir, cx: Context) -> Context {
    drop(cx);
    Context::new(Store::open(&Options::small(dir.path())).unwrap())
}

#[test]
fn a_state_without_one_of_its_nodes_is_reported() {
    let (dir, cx, room_id) = store_of("chaos0-v10");
    let room = cx.store.room_num(&room_id).unwrap().unwrap();
    let newest = *cx.store.state_nums(room, None, usize::MAX).unwrap().last().unwrap();
    let root = cx.store.state_node(room, newest.root()).unwrap();
    let Node::Inner { children, .. } = &*root else { panic!("a small state") };
    let older = children.iter().find(|it| it.1.record != newest.0).unwrap();
    let mut edit = cx.store.edit(&room_id, None).unwrap().unwrap();
    edit.remove_state(crate::store::StateNum(older.1.record));
    edit.commit().unwrap();
    reports(&faults(&opened_again(&dir, cx)), "damaged state");
}

#[test]
fn unused_states_that_a_purge_leaves_are_no_fault() {
    for room in ["chaos0-v10", "chaos6-v12", "powerfork-v12"] {
        let (dir, cx, room_id) = store_of(room);
        let number = cx.store.room_num(&room_id).unwrap().unwrap();
        let newest = *cx.store.extremities(number, 99).unwrap().last().unwrap();
        let newest = cx.store.body(number, newest.event).unwrap().event_id;
        let watch = &mut |_| ControlFlow::Continue(());
        let (room_id, event_id) = (room_id.as_str(), newest.as_str());
        let purged = ingest::PurgedHistory { room_id, event_id, may_return: false };
        assert!(ingest::purge_history(&cx.store, purged, watch).unwrap().done);
        assert_eq!(faults(&opened_again(&dir, cx)), Vec::<String>::new(), "{room}");
    }
}
