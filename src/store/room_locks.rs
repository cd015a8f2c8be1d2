//! One lock for each room that is written to. Writers of different rooms never wait for each other.
//! Writers of one room get its lock in the order in which they asked for it, so that a writer that
//! does much work in small steps lets others write between two steps.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use crate::sync::{lock, wait};

/// The locks of the rooms with a writer, or with a writer that waits.
#[derive(Default)]
pub(super) struct RoomLocks(Mutex<HashMap<String, Turns>>);

/// The writers of a room: each gets a turn, and turns are numbered.
#[derive(Default)]
struct Turns {
    /// The turn of the next writer that asks.
    next: u64,
    /// The turn of the writer that holds the lock.
    current: u64,
    /// Notified when a turn ends.
    ended: Arc<Condvar>,
}

/// The lock of a room, held until this is dropped.
pub(super) struct RoomGuard<'l> {
    locks: &'l RoomLocks,
    room_id: String,
}

impl RoomLocks {
    /// Waits until no other writer has the lock of a room, and takes it.
    pub(super) fn lock(&self, room_id: &str) -> RoomGuard<'_> {
        let mut rooms = self.rooms();
        let turns = rooms.entry(room_id.to_owned()).or_default();
        let turn = turns.next;
        let ended = Arc::clone(&turns.ended);
        turns.next += 1;
        while rooms.get(room_id).is_some_and(|it| it.current != turn) {
            rooms = wait(&ended, rooms);
        }
        RoomGuard { locks: self, room_id: room_id.to_owned() }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Turns>> {
        lock(&self.0)
    }
}

impl Drop for RoomGuard<'_> {
    fn drop(&mut self) {
        let mut rooms = self.locks.rooms();
        let Some(turns) = rooms.get_mut(&self.room_id) else { return };
        turns.current += 1;
        if turns.current == turns.next {
            rooms.remove(&self.room_id);
        } else {
            turns.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
        time::Duration,
    };

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    /// How many writers have asked for a room's lock and not dropped it.
    fn present(locks: &RoomLocks, room_id: &str) -> u64 {
        locks.rooms().get(room_id).map_or(0, |it| it.next - it.current)
    }

    #[test]
    fn writers_of_different_rooms_do_not_wait() {
        let locks = Arc::new(RoomLocks::default());
        let _one = locks.lock("!0:a");
        let others = Arc::clone(&locks);
        let (done, all_locked) = mpsc::channel();
        thread::spawn(move || {
            let guards: Vec<_> = (1..500).map(|it| others.lock(&format!("!{it}:a"))).collect();
            done.send(guards.len()).unwrap();
        });
        assert_eq!(all_locked.recv_timeout(BOUND), Ok(499));
    }

    #[test]
    fn writers_of_a_room_get_its_lock_in_the_order_in_which_they_asked() {
        let locks = Arc::new(RoomLocks::default());
        let first = locks.lock("!a:b");
        let (order, came) = mpsc::channel();
        for writer in 0..8u64 {
            let (own, order) = (Arc::clone(&locks), order.clone());
            thread::spawn(move || {
                let _guard = own.lock("!a:b");
                assert!(present(&own, "!a:b") >= 1);
                order.send(writer).unwrap();
            });
            while present(&locks, "!a:b") < writer + 2 {
                thread::yield_now();
            }
        }
        assert!(came.try_recv().is_err());
        drop(first);
        let order: Vec<u64> = (0..8).map(|_| came.recv_timeout(BOUND).unwrap()).collect();
        assert_eq!(order, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn rooms_without_writers_take_no_memory() {
        let locks = RoomLocks::default();
        for room in 0..100 {
            drop(locks.lock(&format!("!{room}:a")));
        }
        assert!(locks.rooms().is_empty());
    }
}
