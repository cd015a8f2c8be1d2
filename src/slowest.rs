//! The slowest walks since the start: at most one a room, so that one busy room does not hide the
//! others. For operators; rooms and servers are never labels of a metric.

use std::{
    cmp::Reverse,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How many are remembered.
const REMEMBERED: usize = 20;

/// A walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowWalk {
    /// The room.
    pub room_id: String,
    /// Which question it answered.
    pub question: &'static str,
    /// The server that asked; none for a sister service.
    pub origin: Option<String>,
    /// Events looked at.
    pub visited: u32,
    /// From the question to its answer.
    pub took: Duration,
}

/// Remembers them.
#[derive(Debug, Default)]
pub struct Slowest(Mutex<Vec<SlowWalk>>);

impl Slowest {
    /// Takes note of a walk.
    pub fn note(&self, walk: SlowWalk) {
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if walks.len() >= REMEMBERED && walks.last().is_some_and(|it| it.took >= walk.took) {
            return;
        }
        match walks.iter_mut().find(|it| it.room_id == walk.room_id) {
            Some(known) if known.took >= walk.took => return,
            Some(known) => *known = walk,
            None => walks.push(walk),
        }
        walks.sort_by_key(|it| Reverse(it.took));
        walks.truncate(REMEMBERED);
    }

    /// The slowest first.
    pub fn all(&self) -> Vec<SlowWalk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_each_room() {
        let slowest = Slowest::default();
        let walk = |room: u64, took: u64| SlowWalk {
            room_id: format!("!{room}"),
            question: "backfill",
            origin: None,
            visited: 1,
            took: Duration::from_millis(took),
        };
        for (room, took) in [(1, 10), (2, 30), (1, 20), (1, 15), (3, 25)] {
            slowest.note(walk(room, took));
        }
        assert_eq!(slowest.all(), [walk(2, 30), walk(3, 25), walk(1, 20)]);
        (10..100).for_each(|room| slowest.note(walk(room, room)));
        assert_eq!(slowest.all().len(), REMEMBERED);
        assert_eq!(
            (slowest.all()[0].clone(), slowest.all()[19].clone()),
            (walk(99, 99), walk(80, 80))
        );
    }
}
