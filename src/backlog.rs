//! The rooms in which more is left to work out than an append waits for. What is left in each of
//! them is noted on disk; this only says where to look, so nothing is lost with it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Rooms, each once, in the order in which they came.
#[derive(Debug, Default)]
pub struct Backlog {
    rooms: Mutex<Rooms>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Rooms {
    queue: VecDeque<String>,
    queued: HashSet<String>,
}

impl Backlog {
    /// Puts a room at the end, unless it is there.
    pub fn add(&self, room_id: &str) {
        let mut rooms = self.rooms();
        if rooms.queued.insert(room_id.to_owned()) {
            rooms.queue.push_back(room_id.to_owned());
        }
        drop(rooms);
        self.came.notify_one();
    }

    /// Takes the first room out.
    pub fn take(&self) -> Option<String> {
        let mut rooms = self.rooms();
        let first = rooms.queue.pop_front()?;
        rooms.queued.remove(&first);
        Some(first)
    }

    /// How many rooms there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rooms().queue.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms().queue.is_empty()
    }

    /// Returns when there is a room, or may be one.
    pub async fn wait(&self) {
        if self.is_empty() {
            self.came.notified().await;
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
