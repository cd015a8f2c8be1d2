//! The rooms that have states left to compute after an append. What is left in each room is noted on
//! disk, so this queue may be lost: it only says where to look.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A queue of rooms. Each room is in it at most once.
#[derive(Debug, Default)]
pub struct Backlog {
    rooms: Mutex<Rooms>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Rooms {
    queue: VecDeque<String>,
    queued: HashSet<String>,
}

impl Backlog {
    /// Adds a room at the end, unless the queue has it.
    pub fn add(&self, room_id: &str) {
        let mut rooms = self.rooms();
        if rooms.queued.insert(room_id.to_owned()) {
            rooms.queue.push_back(room_id.to_owned());
        }
        drop(rooms);
        self.added.notify_one();
    }

    /// Takes the first room out of the queue; `None` if the queue is empty.
    pub fn take(&self) -> Option<String> {
        let mut rooms = self.rooms();
        let first = rooms.queue.pop_front()?;
        rooms.queued.remove(&first);
        Some(first)
    }

    /// The number of rooms in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rooms().queue.len()
    }

    /// Whether the queue has no room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms().queue.is_empty()
    }

    /// Waits until the queue may have a room.
    pub async fn wait(&self) {
        if self.is_empty() {
            self.added.notified().await;
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
