//! Tests of the walks: examples on drawn graphs, and properties on random ones.

use std::{cell::Cell, collections::BTreeMap, convert::Infallible};

use proptest::prelude::*;

use super::*;

/// A graph, one event after another: id, depth, predecessors.
#[derive(Clone, Debug, Default)]
struct Graph(BTreeMap<char, WalkNode<char, ()>>);

impl Graph {
    fn with(mut self, id: char, depth: i64, prev_events: &str) -> Self {
        let position = Position { depth, arrival: i64::try_from(self.0.len()).unwrap() };
        let prev_events = prev_events.chars().collect();
        self.0.insert(
            id,
            WalkNode { position, servable: true, prev_events, has_gap: false, event: () },
        );
        self
    }

    fn rejected(mut self, id: char) -> Self {
        self.0.get_mut(&id).unwrap().servable = false;
        self
    }

    fn gap(mut self, id: char) -> Self {
        self.0.get_mut(&id).unwrap().has_gap = true;
        self
    }

    fn back(&self, from: &str, limit: usize) -> String {
        self.walk_back(from, limit, 1_000).found.iter().collect()
    }

    fn walk_back(&self, from: &str, limit: usize, budget: u32) -> WalkResult<char> {
        let from: Vec<char> = from.chars().collect();
        walk_back(&from, limit, budget, |id| self.look_up(id), |_, ()| Ok(true)).unwrap()
    }

    fn missing(&self, earliest: &str, latest: &str, limit: usize) -> String {
        self.walk_missing(earliest, latest, limit, 0).found.iter().collect()
    }

    fn walk_missing(
        &self,
        earliest: &str,
        latest: &str,
        limit: usize,
        min_depth: i64,
    ) -> WalkResult<char> {
        let (earliest, latest): (Vec<char>, Vec<char>) =
            (earliest.chars().collect(), latest.chars().collect());
        let between = Between { earliest: &earliest, latest: &latest, min_depth };
        walk_missing(between, limit, 1_000, |id| self.look_up(id), |_, ()| Ok(true)).unwrap()
    }

    fn look_up(&self, id: char) -> Result<Option<WalkNode<char, ()>>, Infallible> {
        Ok(self.0.get(&id).cloned())
    }
}

/// ```text
/// A ◄─ B ◄─ D ◄─ E
///  ▲─ C ◄──┘
/// ```
fn diamond() -> Graph {
    Graph::default()
        .with('A', 1, "")
        .with('B', 2, "A")
        .with('C', 2, "A")
        .with('D', 3, "BC")
        .with('E', 4, "D")
}

#[test]
fn backfill_gives_the_newest_first_and_includes_the_start() {
    assert_eq!(diamond().back("E", 100), "EDCBA");
    assert_eq!(diamond().back("D", 2), "DC");
    assert_eq!(diamond().back("BC", 100), "CBA");
    assert_eq!(diamond().back("EEE", 3), "EDC");
}

#[test]
fn backfill_ignores_what_is_not_held() {
    assert_eq!(diamond().back("?E", 2), "ED");
    assert_eq!(diamond().back("?", 10), "");
}

#[test]
fn a_rejected_event_is_walked_through_and_does_not_count() {
    let graph = diamond().rejected('D');
    assert_eq!(graph.back("E", 2), "EC");
    assert_eq!(graph.missing("", "E", 2), "BC");
}

/// B claims a greater depth than its follower C.
#[test]
fn a_lying_depth_orders_the_answer_and_nothing_more() {
    let graph = Graph::default().with('A', 1, "").with('B', 9, "A").with('C', 3, "B");
    assert_eq!(graph.back("C", 100), "BCA");
    assert_eq!(graph.missing("", "C", 10), "AB");
}

#[test]
fn missing_events_exclude_both_ends_and_come_oldest_first() {
    assert_eq!(diamond().missing("A", "E", 10), "BCD");
    assert_eq!(diamond().missing("", "E", 10), "ABCD");
    assert_eq!(diamond().missing("", "E", 0), "");
    assert_eq!(diamond().missing("", "ED", 10), "ABC");
    assert_eq!(diamond().missing("E", "E", 10), "");
}

#[test]
fn missing_events_are_the_nearest_in_the_order_given() {
    assert_eq!(diamond().missing("", "E", 2), "BD");
}

#[test]
fn another_path_leads_around_the_earliest_events() {
    assert_eq!(diamond().missing("B", "E", 10), "ACD");
}

#[test]
fn min_depth_is_neither_served_nor_walked() {
    let walk = diamond().walk_missing("", "E", 10, 2);
    assert_eq!(walk.found, ['B', 'C', 'D']);
    let graph = Graph::default().with('A', 5, "").with('B', 1, "A").with('C', 6, "B");
    assert!(graph.walk_missing("", "C", 10, 2).found.is_empty());
}

#[test]
fn a_walk_says_why_it_ended() {
    assert_eq!(diamond().walk_back("E", 100, 100).end, WalkEnd::Exhausted);
    assert_eq!(diamond().walk_back("E", 5, 100).end, WalkEnd::Exhausted);
    assert_eq!(diamond().walk_back("E", 2, 100).end, WalkEnd::Limit);
    assert_eq!(diamond().walk_back("E", 100, 2).end, WalkEnd::Budget);
    assert_eq!(diamond().walk_missing("", "E", 2, 0).end, WalkEnd::Limit);
    assert_eq!(diamond().walk_missing("", "E", 9, 0).end, WalkEnd::Exhausted);
    assert_eq!(diamond().gap('B').walk_back("E", 100, 100).gaps, ['B']);
    let full = |_, ()| Ok(false);
    let walk = walk_back(&['E'], 100, 100, |id| diamond().look_up(id), full).unwrap();
    assert_eq!((walk.end, walk.found), (WalkEnd::Size, vec![]));
    let between = Between { earliest: &[], latest: &['E'], min_depth: 0 };
    let walk = walk_missing(between, 100, 100, |id| diamond().look_up(id), full).unwrap();
    assert_eq!((walk.end, walk.found), (WalkEnd::Size, vec![]));
}

#[test]
fn a_cycle_ends() {
    let graph = Graph::default().with('A', 1, "C").with('B', 2, "A").with('C', 3, "B");
    assert_eq!(graph.back("C", 100), "CBA");
    assert_eq!(graph.missing("", "C", 100), "AB");
}

/// Graphs as a hostile sender could draw them: any edges, any depths, some events rejected.
fn any_graph() -> impl Strategy<Value = BTreeMap<u8, WalkNode<u8, ()>>> {
    let node = (0i64..6, prop::bool::weighted(0.8), prop::collection::vec(0u8..40, 0..6));
    prop::collection::vec(node, 1..40).prop_map(|nodes| {
        nodes
            .into_iter()
            .zip(0u8..)
            .map(|((depth, servable, prev_events), id)| {
                let position = Position { depth, arrival: i64::from(id) };
                (id, WalkNode { position, servable, prev_events, has_gap: false, event: () })
            })
            .collect()
    })
}

proptest! {
    /// A walk whose answer has space for some number of events finds the same as with that limit.
    #[test]
    fn a_walk_without_room_ends_as_at_the_limit(
        graph in any_graph(),
        from in prop::collection::vec(0u8..45, 0..6),
        limit in 1usize..30,
    ) {
        let node = |id: u8| -> Result<_, Infallible> { Ok(graph.get(&id).cloned()) };
        let room_for = |events: usize| {
            let asked = Cell::new(0);
            move |_, ()| {
                asked.set(asked.get() + 1);
                Ok(asked.get() <= events)
            }
        };
        let expected = walk_back(&from, limit, 1_000, node, |_, ()| Ok(true)).unwrap();
        let cut = walk_back(&from, 1_000, 1_000, node, room_for(limit)).unwrap();
        prop_assert_eq!(&cut.found, &expected.found);
        prop_assert_eq!(&cut.gaps, &expected.gaps);
        prop_assert!(cut.end != WalkEnd::Size || expected.end == WalkEnd::Limit);

        let between = Between { earliest: &[3, 4], latest: &from, min_depth: 1 };
        let expected = walk_missing(between, limit, 1_000, node, |_, ()| Ok(true)).unwrap();
        let cut = walk_missing(between, 1_000, 1_000, node, room_for(limit)).unwrap();
        prop_assert_eq!(&cut.found, &expected.found);
        prop_assert!(cut.end != WalkEnd::Size || expected.end == WalkEnd::Limit);
    }

    #[test]
    fn no_walk_exceeds_its_bounds(
        graph in any_graph(),
        from in prop::collection::vec(0u8..45, 0..6),
        limit in 0usize..30,
        budget in 0u32..60,
    ) {
        let lookups = Cell::new(0u32);
        let node = |id: u8| -> Result<_, Infallible> {
            lookups.set(lookups.get() + 1);
            Ok(graph.get(&id).cloned())
        };
        let walk = walk_back(&from, limit.max(1), budget, node, |_, ()| Ok(true)).unwrap();
        prop_assert!(lookups.get() <= budget);
        prop_assert_eq!(walk.visited, lookups.get());
        prop_assert!(walk.found.len() <= limit.max(1));
        prop_assert!(walk.found.iter().all(|id| graph[id].servable));
        prop_assert!(walk.found.windows(2).all(|it| graph[&it[0]].position > graph[&it[1]].position));

        lookups.set(0);
        let between = Between { earliest: &[3, 4], latest: &from, min_depth: 1 };
        let walk = walk_missing(between, limit, budget, node, |_, ()| Ok(true)).unwrap();
        prop_assert!(lookups.get() <= budget);
        prop_assert!(walk.found.len() <= limit);
        for id in &walk.found {
            prop_assert!(graph[id].servable && graph[id].position.depth >= 1);
            prop_assert!(![3, 4].contains(id) && !from.contains(id));
        }
    }

    /// Edges that go back in arrival, as those of real rooms do: then "after its predecessors"
    /// can be asked of every answer.
    #[test]
    fn missing_events_stand_after_their_predecessors(
        graph in any_graph(),
        from in prop::collection::vec(0u8..45, 1..6),
        limit in 1usize..30,
    ) {
        let graph: BTreeMap<u8, WalkNode<u8, ()>> = graph.into_iter().map(|(id, mut node)| {
            node.prev_events.retain(|prev| *prev < id);
            (id, node)
        }).collect();
        let node = |id: u8| -> Result<_, Infallible> { Ok(graph.get(&id).cloned()) };
        let between = Between { earliest: &[], latest: &from, min_depth: 0 };
        let walk = walk_missing(between, limit, 1_000, node, |_, ()| Ok(true)).unwrap();
        for (at, id) in walk.found.iter().enumerate() {
            for prev in &graph[id].prev_events {
                let stands = walk.found.iter().position(|it| it == prev);
                prop_assert!(stands.is_none_or(|it| it < at));
            }
        }
    }
}
