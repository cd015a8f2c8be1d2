//! A graph with its edges in both directions, and its events in topological order.

use super::{Outline, before::index};

/// The graph of a whole room, from which the followers of an event can be found. Takes about 20 bytes
/// for each event beside the outline.
#[derive(Clone, Debug)]
pub struct Followers {
    /// The position of each event in a topological order.
    ranks: Vec<u32>,
    /// The end of each event's followers in `followers`.
    ends: Vec<usize>,
    followers: Vec<u32>,
}

impl Followers {
    /// Turns the edges of an outline around.
    #[must_use]
    pub fn of(outline: &Outline) -> Self {
        let order = outline.oldest_first();
        let events = outline.events().len();
        let mut ranks = vec![0; events];
        for (rank, event) in (0..).zip(&order) {
            if let Some(it) = ranks.get_mut(index(*event)) {
                *it = rank;
            }
        }
        let mut ends = vec![0usize; events];
        let edges =
            || order.iter().flat_map(|it| outline.prev_events(*it).iter().map(|to| (*it, *to)));
        for (_, prev) in edges() {
            if let Some(end) = ends.get_mut(index(prev)) {
                *end += 1;
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            let count = *end;
            *end = sum;
            sum += count;
        }
        // Each end is the start of an event's followers now, and moves to their end.
        let mut followers = vec![0; sum];
        for (event, prev) in edges() {
            if let Some(end) = ends.get_mut(index(prev)) {
                if let Some(follower) = followers.get_mut(*end) {
                    *follower = event;
                }
                *end += 1;
            }
        }
        Self { ranks, ends, followers }
    }

    /// The position of an event in a topological order: greater than those of all events that it
    /// follows. Zero for an event that is not in the graph.
    #[must_use]
    pub fn rank(&self, event: u32) -> u32 {
        self.ranks.get(index(event)).copied().unwrap_or(0)
    }

    /// The events that have an event among their predecessors.
    #[must_use]
    pub fn of_event(&self, event: u32) -> &[u32] {
        let at = index(event);
        let start = at.checked_sub(1).map_or(0, |it| self.ends.get(it).copied().unwrap_or(0));
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.followers.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_and_ranks_of_a_fork_that_arrived_late() {
        // 3 ◄─ 0 ◄─ 1      the first event arrived last
        //  ▲── 2 ◄──┘
        let mut outline = Outline::default();
        for prev in [&[3][..], &[0, 2], &[3], &[]] {
            outline.push(Some(1), prev.iter().copied());
        }
        outline.push(None, [3].into_iter());
        let followers = Followers::of(&outline);
        assert_eq!(followers.of_event(3), [0, 2]);
        assert_eq!(followers.of_event(0), [1]);
        assert_eq!(followers.of_event(2), [1]);
        assert!(followers.of_event(1).is_empty() && followers.of_event(9).is_empty());
        let [zero, one, two, three] = [0, 1, 2, 3].map(|it| followers.rank(it));
        assert!(three < zero && three < two && zero < one && two < one);
    }

    #[test]
    fn a_cycle_and_events_that_are_not_held_do_no_harm() {
        let mut outline = Outline::default();
        outline.push(Some(1), [1].into_iter());
        outline.push(Some(1), [0, 7].into_iter());
        let followers = Followers::of(&outline);
        assert_eq!((followers.of_event(0), followers.of_event(1)), (&[1][..], &[0][..]));
    }
}
