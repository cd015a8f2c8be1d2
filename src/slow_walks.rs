//! The slowest walks since the start, for operators. At most one walk of each room is kept, so that
//! one busy room does not hide the others. Rooms and servers are never labels of a metric, so they
//! are shown here.

use std::{
    cmp::Reverse,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The most walks that are kept.
const MAX_WALKS: usize = 20;

/// A walk through a room, and how long its answer took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowWalk {
    /// The id of the room.
    pub room_id: String,
    /// The question that the walk answered.
    pub kind: WalkKind,
    /// The server that asked; `None` for an internal caller.
    pub origin: Option<String>,
    /// How many events were looked up.
    pub visited: u32,
    /// The time from the question to its answer.
    pub took: Duration,
}

/// A question that is answered by a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkKind {
    /// The events before some events.
    Backfill,
    /// The events between known events and newer ones.
    GetMissingEvents,
}

impl WalkKind {
    /// The name of the question in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::GetMissingEvents => "get_missing_events",
        }
    }
}

/// Keeps the slowest walks.
#[derive(Debug, Default)]
pub struct SlowWalks(Mutex<Vec<SlowWalk>>);

impl SlowWalks {
    /// Keeps a walk if it is one of the slowest.
    pub fn note(&self, walk: SlowWalk) {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if walks.len() >= MAX_WALKS && walks.last().is_some_and(|it| it.took >= walk.took) {
            return;
        }
        match walks.iter_mut().find(|it| it.room_id == walk.room_id) {
            Some(known) if known.took >= walk.took => return,
            Some(known) => *known = walk,
            None => walks.push(walk),
        }
        walks.sort_by_key(|it| Reverse(it.took));
        walks.truncate(MAX_WALKS);
    }

    /// Returns the walks that are kept, slowest first.
    pub fn all(&self) -> Vec<SlowWalk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_each_room() {
        let slow_walks = SlowWalks::default();
        let walk = |room: u64, took: u64| SlowWalk {
            room_id: format!("!{room}"),
            kind: WalkKind::Backfill,
            origin: None,
            visited: 1,
            took: Duration::from_millis(took),
        };
        for (room, took) in [(1, 10), (2, 30), (1, 20), (1, 15), (3, 25)] {
            slow_walks.note(walk(room, took));
        }
        assert_eq!(slow_walks.all(), [walk(2, 30), walk(3, 25), walk(1, 20)]);
        (10..100).for_each(|room| slow_walks.note(walk(room, room)));
        let all = slow_walks.all();
        assert_eq!(all.len(), MAX_WALKS);
        assert_eq!(all.first(), Some(&walk(99, 99)));
        assert_eq!(all.last(), Some(&walk(80, 80)));
    }
}
