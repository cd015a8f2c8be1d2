//! The rules one by one: what each explains, and a similar difference that it does not explain.

use std::{collections::BTreeMap, convert::Infallible};

use super::{DifferenceReason as R, *};
use crate::graph::Position;

/// A room by the ids of its events.
#[derive(Default)]
struct Room(BTreeMap<String, KnownEvent>);

impl Room {
    /// Adds an event whose depth is the number in its id, such as 3 of `c3`.
    fn event(&mut self, id: &str, prev: &[&str]) -> &mut KnownEvent {
        let depth: i64 = id.trim_start_matches(|it: char| !it.is_ascii_digit()).parse().unwrap();
        let arrival = i64::try_from(self.0.len()).unwrap();
        let event = KnownEvent {
            position: Position { depth, arrival },
            outlier: false,
            rejected: false,
            unservable: false,
            of_other_room: false,
            may_be_withheld: false,
            prev_events: texts(prev),
        };
        self.0.entry(id.to_owned()).insert_entry(event).into_mut()
    }

    /// A straight line of events: e1 to the last one.
    fn line(last: usize) -> Self {
        let mut room = Self::default();
        room.event("e1", &[]);
        for depth in 2..=last {
            room.event(&format!("e{depth}"), &[&*format!("e{}", depth - 1)]);
        }
        room
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut KnownEvent)) {
        change(self.0.get_mut(id).unwrap());
    }

    fn explain(&self, asked: &Asked, ours: &[&str], theirs: &[&str]) -> Option<Vec<R>> {
        self.explained(asked, ours, theirs, false)
    }

    fn explained(
        &self,
        asked: &Asked,
        ours: &[&str],
        theirs: &[&str],
        ours_ended_early: bool,
    ) -> Option<Vec<R>> {
        let look = |id: &str| Ok::<_, Infallible>(self.0.get(id).cloned());
        let walk = match asked {
            Asked::Back(from, limit) => AskedWalk::Back { from, limit: *limit },
            Asked::Missing { earliest, latest, limit, min_depth } => {
                AskedWalk::Missing { earliest, latest, limit: *limit, min_depth: *min_depth }
            }
        };
        let (ours, theirs) = (texts(ours), texts(theirs));
        let answers = BothAnswers { ours: &ours, ours_ended_early, theirs: &theirs };
        let Ok(reasons) = explain(walk, answers, &KnownEvents::new(&look));
        reasons.map(|it| it.iter().collect())
    }
}

enum Asked {
    Back(Vec<String>, usize),
    Missing { earliest: Vec<String>, latest: Vec<String>, limit: usize, min_depth: i64 },
}

fn texts(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|it| (*it).to_owned()).collect()
}

fn back(from: &[&str], limit: usize) -> Asked {
    Asked::Back(texts(from), limit)
}

fn missing(earliest: &[&str], latest: &[&str], limit: usize) -> Asked {
    Asked::Missing { earliest: texts(earliest), latest: texts(latest), limit, min_depth: 0 }
}

#[test]
fn an_event_that_is_missing_without_a_reason_is_not_explained() {
    let room = Room::line(6);
    let asked = back(&["e6"], 4);
    let ours = ["e6", "e5", "e4", "e3"];
    // One less, one more, another one, another order, a double, one that is not held.
    for theirs in [
        &["e6", "e5", "e4"][..],
        &["e6", "e5", "e4", "e3", "e2"],
        &["e6", "e5", "e4", "e2"],
        &["e6", "e5", "e3", "e4"],
        &["e6", "e5", "e4", "e3", "e3"],
        &["e6", "e5", "e4", "x3"],
        &[],
    ] {
        assert_eq!(room.explain(&asked, &ours, theirs), None, "{theirs:?}");
    }
    let asked = missing(&["e1"], &["e5"], 10);
    for theirs in [&["e4", "e3"][..], &["e4", "e3", "e2", "e1"], &["e4", "e3", "x2"], &[]] {
        assert_eq!(room.explain(&asked, &["e2", "e3", "e4"], theirs), None, "{theirs:?}");
    }
}

#[test]
fn nothing_is_explained_if_our_own_answer_is_wrong() {
    let mut room = Room::line(5);
    room.change("e3", |it| it.rejected = true);
    let asked = back(&["e5"], 4);
    // What the homeserver answers is right under its rules each time.
    let theirs = ["e5", "e4"];
    assert_eq!(
        room.explain(&asked, &["e5", "e4", "e2", "e1"], &theirs),
        Some(vec![R::RejectedEvents])
    );
    for ours in [&["e5", "e4", "e2"][..], &["e5", "e4", "e3", "e2"], &["e4", "e2", "e1"], &[]] {
        assert_eq!(room.explain(&asked, ours, &theirs), None, "{ours:?}");
    }
}

#[test]
fn rejected_events_count_and_end_the_homeservers_walk() {
    let mut room = Room::line(6);
    room.change("e4", |it| it.rejected = true);
    // A second branch, so that the walk goes on beside the rejected event.
    room.event("f5", &["e3"]);
    room.event("g7", &["e6", "f5"]);
    let ours = ["g7", "e6", "f5", "e5", "e3"];
    let asked = back(&["g7"], 5);
    let explained = |theirs: &[&str]| room.explain(&asked, &ours, theirs);
    // The rejected event has the fifth place.
    assert_eq!(explained(&["g7", "e6", "f5", "e5"]), Some(vec![R::RejectedEvents]));
    // An event before its place is missing, or one comes after it.
    assert_eq!(explained(&["g7", "e6", "f5"]), None);
    assert_eq!(explained(&["g7", "e6", "f5", "e5", "e2"]), None);
    // The rejected event itself must not be returned.
    assert_eq!(explained(&["g7", "e6", "f5", "e5", "e4"]), None);
    // In a room with a rejected event elsewhere, nothing else is explained by it.
    assert_eq!(room.explain(&back(&["e3"], 3), &["e3", "e2", "e1"], &["e3", "e2"]), None);
}

#[test]
fn only_an_outlier_that_was_asked_for_is_explained_in_backfill() {
    let mut room = Room::line(4);
    room.event("o5", &["e4"]).outlier = true;
    assert_eq!(room.explain(&back(&["o5"], 2), &[], &["o5", "e4"]), Some(vec![R::Outliers]));
    // One on the way would mean that the homeserver has placed it in the graph.
    room.event("e6", &["o5"]);
    assert_eq!(room.explain(&back(&["e6"], 3), &["e6"], &["e6", "o5", "e4"]), None);
    // The walk of /get_missing_events does not ask whether an event is an outlier.
    let asked = missing(&["e3"], &["e6"], 10);
    assert_eq!(room.explain(&asked, &[], &["o5", "e4"]), Some(vec![R::Outliers]));
    assert_eq!(room.explain(&asked, &[], &["o5"]), None);
}

#[test]
fn only_redactions_that_cannot_be_validated_may_be_missing() {
    let mut room = Room::line(5);
    room.change("e3", |it| it.may_be_withheld = true);
    let ours = ["e5", "e4", "e3", "e2"];
    let explained = |theirs: &[&str]| room.explain(&back(&["e5"], 4), &ours, theirs);
    assert_eq!(explained(&["e5", "e4", "e2"]), Some(vec![R::RedactionsWithheld]));
    // Another one is missing, too, or in its place. It has its place in the limit.
    for theirs in [&["e5", "e4"][..], &["e5", "e3", "e2"], &["e5", "e4", "e2", "e1"]] {
        assert_eq!(explained(theirs), None, "{theirs:?}");
    }
}

#[test]
fn min_depth_explains_only_events_below_it() {
    let room = Room::line(6);
    let asked = |min_depth| Asked::Missing {
        earliest: texts(&["e1"]),
        latest: texts(&["e6"]),
        limit: 10,
        min_depth,
    };
    let theirs = ["e2", "e3", "e4", "e5"];
    assert_eq!(room.explain(&asked(4), &["e4", "e5"], &theirs), Some(vec![R::MinDepth]));
    // The homeserver lacks one below, or we lack one that is not below.
    assert_eq!(room.explain(&asked(4), &["e4", "e5"], &["e3", "e4", "e5"]), None);
    assert_eq!(room.explain(&asked(4), &["e5"], &theirs), None);
    assert_eq!(room.explain(&asked(0), &["e4", "e5"], &theirs), None);
}

#[test]
fn a_latest_event_is_explained_only_if_another_one_follows_it() {
    let room = Room::line(6);
    let asked = missing(&["e2"], &["e6", "e4"], 10);
    let theirs = ["e3", "e4", "e5"];
    assert_eq!(room.explain(&asked, &["e3", "e5"], &theirs), Some(vec![R::LatestEvents]));
    assert_eq!(room.explain(&asked, &["e3", "e5"], &["e3", "e4", "e5", "e6"]), None);
    assert_eq!(
        room.explain(
            &missing(&["e2"], &["e6"], 10),
            &["e3", "e4", "e5"],
            &["e3", "e4", "e5", "e6"]
        ),
        None
    );
}

/// Three branches of two events each from e1, merged by m4.
fn branches() -> Room {
    let mut room = Room::default();
    room.event("e1", &[]);
    for branch in ["a", "b", "c"] {
        room.event(&format!("{branch}2"), &["e1"]);
        room.event(&format!("{branch}3"), &[&*format!("{branch}2")]);
    }
    room.event("m4", &["a3", "b3", "c3"]);
    room
}

#[test]
fn where_the_limit_is_reached_inside_a_layer_any_part_of_it_will_do_and_nothing_else() {
    let room = branches();
    let asked = missing(&[], &["m4"], 4);
    let ours = ["a3", "b3", "c3", "a2"];
    for theirs in [["a3", "b3", "c3", "b2"], ["a3", "b3", "c3", "c2"]] {
        assert_eq!(room.explain(&asked, &ours, &theirs), Some(vec![R::Limit]), "{theirs:?}");
    }
    for theirs in [
        // Too few: the limit leaves space.
        &["a3", "b3", "c3"][..],
        &["a3", "b3"],
        // One of the complete layer is missing.
        &["a3", "b3", "a2", "b2"],
        // Too many, or one that does not follow.
        &["a3", "b3", "c3", "a2", "b2"],
        &["a3", "b3", "c3", "e1"],
        &["a3", "b3", "c3", "x2"],
    ] {
        assert_eq!(room.explain(&asked, &ours, theirs), None, "{theirs:?}");
    }
    // No layer is cut off: the limit explains nothing.
    let ours = ["e1", "a2", "b2", "c2", "a3", "b3", "c3"];
    let theirs = ["a2", "b2", "c2", "a3", "b3", "c3"];
    assert_eq!(room.explain(&missing(&[], &["m4"], 10), &ours, &theirs), None);
}

#[test]
fn ids_that_are_not_held_count_for_the_homeserver() {
    let mut room = Room::line(3);
    room.event("f4", &["e3", "x3", "y3"]);
    room.event("f5", &["f4"]);
    let asked = missing(&[], &["f5"], 4);
    // f4, then e3 and two that are not held, so nothing is left.
    assert_eq!(
        room.explain(&asked, &["e1", "e2", "e3", "f4"], &["e3", "f4"]),
        Some(vec![R::Limit])
    );
    assert_eq!(room.explain(&asked, &["e1", "e2", "e3", "f4"], &["f4"]), None);
    assert_eq!(room.explain(&asked, &["e1", "e2", "e3", "f4"], &["e1", "e3", "f4"]), None);
}

#[test]
fn events_of_other_rooms_are_explained_only_where_one_of_this_room_references_them() {
    let mut room = Room::line(3);
    room.event("e4", &["e3", "x3"]);
    room.event("e5", &["e4"]);
    let asked = missing(&["e1"], &["e5"], 10);
    let ours = ["e2", "e3", "e4"];
    let theirs = ["e2", "e3", "e4", "x3"];
    // An event that is not held and names this room may have been lost.
    assert_eq!(room.explain(&asked, &ours, &theirs), None);
    room.event("x3", &[]).of_other_room = true;
    assert_eq!(room.explain(&asked, &ours, &theirs), Some(vec![R::OtherRooms]));
    room.event("y3", &[]).of_other_room = true;
    assert_eq!(room.explain(&asked, &ours, &["e2", "e3", "e4", "y3"]), None);
    assert_eq!(
        room.explain(
            &back(&["e5"], 5),
            &["e5", "e4", "e3", "e2", "e1"],
            &["e5", "e4", "x3", "e3", "e2"]
        ),
        None
    );
}

#[test]
fn only_events_that_we_never_serve_are_unservable() {
    let mut room = Room::line(4);
    room.change("e3", |it| it.unservable = true);
    let explained = |theirs: &[&str]| room.explain(&back(&["e4"], 3), &["e4", "e2", "e1"], theirs);
    assert_eq!(explained(&["e4", "e3", "e2"]), Some(vec![R::UnservableEvents]));
    assert_eq!(explained(&["e4", "e3"]), None);
    assert_eq!(explained(&["e4", "e2"]), None);
}

#[test]
fn an_answer_that_ended_early_is_explained_if_the_homeserver_has_the_whole() {
    let room = Room::line(5);
    let asked = back(&["e5"], 4);
    let whole = ["e5", "e4", "e3", "e2"];
    let explained = |ours: &[&str], theirs: &[&str]| room.explained(&asked, ours, theirs, true);
    assert_eq!(explained(&["e5", "e4"], &whole), Some(vec![R::AnswerBound]));
    assert_eq!(explained(&["e5", "e4"], &["e5", "e4", "e3"]), None);
    assert_eq!(explained(&["e5", "e1"], &whole), None);
    assert_eq!(room.explain(&asked, &["e5", "e4"], &whole), None);
}

#[test]
fn several_rules_are_named_together_and_no_more_than_needed() {
    let mut room = Room::line(6);
    room.change("e2", |it| it.rejected = true);
    room.change("e4", |it| it.may_be_withheld = true);
    let ours = ["e6", "e5", "e4", "e3", "e1"];
    let theirs = ["e6", "e5", "e3"];
    let both = Some(vec![R::RedactionsWithheld, R::RejectedEvents]);
    assert_eq!(room.explain(&back(&["e6"], 6), &ours, &theirs), both);
}
