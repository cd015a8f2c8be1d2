//! Which events of a room are before an event: those that a purge removes.
//!
//! These are all events that the event follows, directly or not. Of the events that neither precede
//! nor follow it, they are those that claim a lower depth, along with all that these follow. Depth
//! alone would not do: an event could claim a great depth to stay, or a small one to be removed
//! although it is among the newest. The edges of the graph cannot be forged like that.

use std::{collections::BTreeSet, ops::Range};

/// The graph of a whole room, by the numbers of events. Takes about 20 bytes for each event.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The depth that each event claims; `None` for one that is not placed in the graph.
    depths: Vec<Option<i64>>,
    /// The end of each event's predecessors in `prev_events`.
    ends: Vec<usize>,
    prev_events: Vec<u32>,
}

impl Outline {
    /// Adds the event with the next number, and its predecessors. The depth is `None` if the event is
    /// not placed in the graph.
    pub fn push(&mut self, depth: Option<i64>, prev_events: impl Iterator<Item = u32>) {
        self.depths.push(depth);
        self.prev_events.extend(prev_events);
        self.ends.push(self.prev_events.len());
    }

    /// The predecessors of an event, as far as they are held.
    pub fn prev_events(&self, event: u32) -> &[u32] {
        let at = index(event);
        let start = at.checked_sub(1).map_or(0, |it| self.ends.get(it).copied().unwrap_or(0));
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.prev_events.get(start..end).unwrap_or_default()
    }

    /// Whether an event is placed in the graph.
    pub fn is_placed(&self, event: u32) -> bool {
        self.depth(event).is_some()
    }

    fn depth(&self, event: u32) -> Option<i64> {
        self.depths.get(index(event)).copied().flatten()
    }

    /// All events in the graph, each after its predecessors.
    pub fn oldest_first(&self) -> Vec<u32> {
        let mut order = Vec::new();
        let mut marks = vec![false; self.depths.len()];
        for event in self.events() {
            self.postorder(event, &mut marks, |it| order.push(it));
        }
        order
    }

    /// The numbers of all events, in the graph or not.
    pub(super) fn events(&self) -> Range<u32> {
        0..u32::try_from(self.depths.len()).unwrap_or(u32::MAX)
    }

    /// The events before an event, each after its predecessors. Events in `keep` are left out.
    pub fn before(&self, event: u32, keep: &BTreeSet<u32>) -> Vec<u32> {
        let Some(depth) = self.depth(event) else { return Vec::new() };
        let mut order = Vec::new();
        let mut marks = self.after(event);
        let mut take = |start: u32| {
            self.postorder(start, &mut marks, |it| {
                if !keep.contains(&it) {
                    order.push(it);
                }
            });
        };
        self.prev_events(event).iter().for_each(|it| take(*it));
        for beside in self.events() {
            if self.depth(beside).is_some_and(|it| it < depth) && !keep.contains(&beside) {
                take(beside);
            }
        }
        order
    }

    /// For each event: whether it is `event` or follows it.
    fn after(&self, event: u32) -> Vec<bool> {
        let mut after = vec![false; self.depths.len()];
        let mut seen = after.clone();
        mark(&mut seen, event);
        mark(&mut after, event);
        for start in self.events() {
            self.postorder(start, &mut seen, |it| {
                let follows = |prev: &u32| after.get(index(*prev)).copied().unwrap_or(false);
                if self.prev_events(it).iter().any(follows) {
                    mark(&mut after, it);
                }
            });
        }
        after
    }

    /// Visits an event and all events that it follows, predecessors first. Marks them, and skips those
    /// that are marked already.
    fn postorder(&self, start: u32, marks: &mut [bool], mut visit: impl FnMut(u32)) {
        if self.depth(start).is_none() || mark(marks, start) {
            return;
        }
        let mut path = vec![(start, 0)];
        while let Some((event, next)) = path.last_mut() {
            match self.prev_events(*event).get(*next) {
                Some(prev) => {
                    *next += 1;
                    if self.depth(*prev).is_some() && !mark(marks, *prev) {
                        path.push((*prev, 0));
                    }
                }
                None => {
                    visit(*event);
                    path.pop();
                }
            }
        }
    }
}

/// Marks an event. Returns whether it was marked before; true for a number that no event has.
fn mark(marks: &mut [bool], event: u32) -> bool {
    marks.get_mut(index(event)).is_none_or(|it| std::mem::replace(it, true))
}

/// The index of an event in a list of all events.
pub(super) fn index(event: u32) -> usize {
    usize::try_from(event).expect("32 bits fit every usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws a graph: depth and predecessors of each event.
    fn drawn(events: &[(i64, &[u32])]) -> Outline {
        let mut outline = Outline::default();
        events.iter().for_each(|(depth, prev)| outline.push(Some(*depth), prev.iter().copied()));
        outline
    }

    fn before(outline: &Outline, event: u32, keep: &[u32]) -> Vec<u32> {
        outline.before(event, &keep.iter().copied().collect())
    }

    #[test]
    fn all_that_an_event_follows_oldest_first() {
        // 0 ◄─ 1 ◄─ 3 ◄─ 4
        //  ▲── 2 ◄──┘
        let outline = drawn(&[(1, &[]), (2, &[0]), (2, &[0]), (3, &[1, 2]), (4, &[3])]);
        assert_eq!(before(&outline, 4, &[]), [0, 1, 2, 3]);
        assert_eq!(before(&outline, 3, &[]), [0, 1, 2]);
        assert!(before(&outline, 0, &[]).is_empty());
    }

    #[test]
    fn what_stands_beside_goes_by_its_depth() {
        // 0 ◄─ 1 ◄─ 2 ◄─ 3     before 3
        //  ▲── 4 ◄─ 5 ◄─ 6
        let outline =
            drawn(&[(1, &[]), (2, &[0]), (3, &[1]), (4, &[2]), (2, &[0]), (3, &[4]), (4, &[5])]);
        assert_eq!(before(&outline, 3, &[6]), [0, 1, 2, 4, 5]);
    }

    #[test]
    fn a_claimed_depth_saves_nothing_and_takes_nothing() {
        // 1 claims to be far ahead, 3 to be the first.
        let outline = drawn(&[(1, &[]), (99, &[0]), (3, &[1]), (-5, &[2])]);
        assert_eq!(before(&outline, 2, &[]), [0, 1]);
        // 2 is beside 3 and claims a great depth, but 4, which follows it, is removed.
        let outline = drawn(&[(1, &[]), (2, &[0]), (90, &[0]), (5, &[1]), (3, &[2])]);
        assert_eq!(before(&outline, 3, &[]), [0, 1, 2, 4]);
    }

    #[test]
    fn what_is_kept_stays_and_what_it_follows_goes() {
        let outline = drawn(&[(1, &[]), (2, &[0]), (3, &[1]), (4, &[2])]);
        assert_eq!(before(&outline, 3, &[1]), [0, 2]);
    }

    #[test]
    fn what_is_not_placed_and_cycles_do_no_harm() {
        let mut outline = Outline::default();
        outline.push(Some(1), [1].into_iter());
        outline.push(Some(2), [0, 9].into_iter());
        outline.push(None, [0].into_iter());
        outline.push(Some(4), [1, 2].into_iter());
        assert_eq!(before(&outline, 3, &[]), [0, 1]);
        assert!(before(&outline, 2, &[]).is_empty());
        assert!(before(&outline, 77, &[]).is_empty());
    }
}
