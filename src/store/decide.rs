//! Decisions: one change of one room, made and committed under the room's lock.

use std::{sync::atomic::Ordering, thread, time::Duration};

use super::{
    Edit, FoundNum, Room, RoomNum, Store, StoreError,
    codec::{Malformed, strip_checksum},
    edit::Start,
    engine::Commit,
    keys,
};

/// How often a decision is made before [`StoreError::Conflict`] is returned.
const MAX_TRIES: u32 = 40;
/// Tries without a wait between them.
const TRIES_AT_ONCE: u32 = 4;
/// The longest wait before another try, in milliseconds.
const LONGEST_WAIT_MS: u64 = 64;

/// How a decision ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// All changes of the edit are committed.
    Commit(T),
    /// The changes are dropped: the room stays as it was.
    Discard(T),
}

impl Store {
    /// Makes one decision about one room and commits it as one atomic batch. No other writer of
    /// this process changes the room until this returns. The batch is on disk only after
    /// [`Store::flush`].
    ///
    /// Returns `None`, without a call of `decide`, if the room was deleted, or if it does not exist
    /// and `make` is `None`. With `make`, a room that does not exist is made with that version.
    ///
    /// # When `decide` is called again
    /// If the room was changed by someone else between the first read and the commit, all changes
    /// are dropped and `decide` is called again, with a fresh [`Edit`] that shows the room as it is
    /// then. In a store that several processes share, the same happens if `decide` fails and the room
    /// was changed meanwhile: it may have seen two moments. So `decide` must have no effect outside the
    /// edit and its return value: what it counts or collects must begin anew at each call. It is not
    /// called again after [`Decision::Discard`]. A store in a directory is open in one process, whose writers hold the
    /// room's lock, so there no commit conflicts.
    ///
    /// # Errors
    /// The error of `decide`, unchanged; nothing was committed. [`StoreError::Conflict`] after the
    /// last try; nothing was committed. After any other error of the commit the store has
    /// failed: [`Store::has_failed`].
    pub fn decide<T, E: From<StoreError>>(
        &self,
        room_id: &str,
        make: Option<&str>,
        mut decide: impl FnMut(&mut Edit<'_>) -> Result<Decision<T>, E>,
    ) -> Result<Option<T>, E> {
        let _guard = self.room_locks.lock(room_id);
        let mut new_number = None;
        retried(room_id, || {
            let Some(start) = self.start(room_id, make, &mut new_number)? else {
                return Ok(Some(None));
            };
            self.follow_sets()?;
            let mut edit = Edit::new(self, start, None);
            let decision = match decide(&mut edit) {
                Ok(decision) => decision,
                // What was read may be of two moments.
                Err(_) if self.is_changed(&edit)? => return Ok(None),
                Err(failure) => return Err(failure),
            };
            match decision {
                Decision::Discard(value) => Ok(Some(Some(value))),
                Decision::Commit(value) => match edit.apply()? {
                    Commit::Done => Ok(Some(Some(value))),
                    Commit::Conflict => Ok(None),
                },
            }
        })
    }

    /// Holds a room still: no other writer of this process changes it until the edit is dropped.
    /// Changes made through the edit are for trial; they cannot be committed. Returns `None` if the
    /// store does not hold the room.
    ///
    /// # Errors
    /// When the record of the room is damaged.
    pub fn hold(&self, room_id: &str) -> Result<Option<Edit<'_>>, StoreError> {
        let guard = self.room_locks.lock(room_id);
        let start = self.start(room_id, None, &mut None)?;
        self.follow_sets()?;
        Ok(start.map(|start| Edit::new(self, start, Some(guard))))
    }

    /// Begins an edit that a test commits itself.
    #[cfg(test)]
    pub(crate) fn edit(
        &self,
        room_id: &str,
        make: Option<&str>,
    ) -> Result<Option<Edit<'_>>, StoreError> {
        let guard = self.room_locks.lock(room_id);
        Ok(self.start(room_id, make, &mut None)?.map(|start| Edit::new(self, start, Some(guard))))
    }

    /// Reads the record that a decision about a room starts from. The caller holds the room's lock.
    /// A room that is made gets `new_number`, or the next number, which is left there.
    fn start(
        &self,
        room_id: &str,
        make: Option<&str>,
        new_number: &mut Option<RoomNum>,
    ) -> Result<Option<Start>, StoreError> {
        let by_name = self.engine.see(keys::room_by_name(room_id))?;
        match (FoundNum::of(&by_name.key, by_name.value.as_deref())?, make) {
            (FoundNum::Held(number), _) => {
                let seen = self.engine.see(keys::room(number))?;
                let missing = || StoreError::missing("room", &seen.key);
                let value = seen.value.as_ref().ok_or_else(missing)?;
                let room = strip_checksum(&seen.key, value).and_then(Room::decode);
                let room = room.map_err(|Malformed| StoreError::corrupt("room", &seen.key))?;
                Ok(Some(Start { number, room, seen }))
            }
            (FoundNum::None, Some(version)) => {
                let number = match *new_number {
                    Some(number) => number,
                    None => self.next_number(room_id)?,
                };
                *new_number = Some(number);
                Ok(Some(Start { number, room: Room::new(room_id, version), seen: by_name }))
            }
            (FoundNum::None, None) | (FoundNum::Deleted, _) => Ok(None),
        }
    }

    /// The number of a room that is about to be made.
    pub(super) fn next_number(&self, room_id: &str) -> Result<RoomNum, StoreError> {
        let next = || RoomNum(self.next_room.fetch_add(1, Ordering::Relaxed));
        Ok(self.engine.number_for_new(room_id)?.unwrap_or_else(next))
    }

    /// Whether another process has changed the room since an edit of it began.
    fn is_changed(&self, edit: &Edit<'_>) -> Result<bool, StoreError> {
        if !self.engine.is_shared() {
            return Ok(false);
        }
        let seen = edit.seen();
        Ok(self.engine.see(seen.key.clone())?.stamp != seen.stamp)
    }
}

/// Calls `attempt` until it returns a value; it returns `None` after a conflict.
///
/// # Errors
/// The first error of `attempt`, and [`StoreError::Conflict`] after the last try.
pub(super) fn retried<T, E: From<StoreError>>(
    room_id: &str,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    for tries in 0..MAX_TRIES {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        give_way(tries);
    }
    Err(StoreError::Conflict { room_id: room_id.to_owned() }.into())
}

/// Waits before another try, at random and longer each time: the processes that write to the room would
/// meet again and again, and the slowest of them would never commit.
#[expect(clippy::disallowed_methods, reason = "what other processes do is not told")]
fn give_way(tries: u32) {
    let Some(times) = tries.checked_sub(TRIES_AT_ONCE) else { return };
    let longest = 1_u64.checked_shl(times).unwrap_or(u64::MAX).min(LONGEST_WAIT_MS);
    thread::sleep(Duration::from_millis(rand::random_range(0..=longest)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Options, View as _, codec};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        (dir, store)
    }

    #[test]
    fn a_decision_is_committed_discarded_or_fails_as_a_whole() {
        let (_dir, store) = store();
        let held = || {
            let room = store.room_num("!a:b").unwrap()?;
            Some(store.room(room).unwrap().next_event.0)
        };
        let discarded = store.decide("!a:b", Some("10"), |edit| {
            edit.add_event("$one");
            Ok::<_, StoreError>(Decision::Discard("discarded"))
        });
        assert_eq!((discarded.unwrap(), held()), (Some("discarded"), None));
        let failed: Result<Option<()>, StoreError> = store.decide("!a:b", Some("10"), |edit| {
            edit.add_event("$one");
            Err(StoreError::Bug("of the test"))
        });
        assert!(matches!(failed, Err(StoreError::Bug(_))));
        assert_eq!(held(), None);
        let committed = store.decide("!a:b", Some("10"), |edit| {
            edit.add_event("$one");
            Ok::<_, StoreError>(Decision::Commit(edit.room_num()))
        });
        assert_eq!((committed.unwrap(), held()), (store.room_num("!a:b").unwrap(), Some(1)));
    }

    /// A decision during which something else writes the room's record, as often as `times`.
    fn disturbed(store: &Store, times: u32) -> (u32, Result<Option<u32>, StoreError>) {
        let mut calls = 0;
        let decided = store.decide("!a:b", None, |edit| {
            calls += 1;
            assert_eq!(edit.room.outliers, u64::from((calls - 1).min(times)), "read again");
            edit.add_event(&format!("$of-call-{calls}"));
            if calls <= times {
                let key = keys::room(edit.room_num());
                let mut other = store.room(edit.room_num())?;
                other.outliers += 1;
                let value = codec::add_checksum(&key, other.encode());
                store.engine.put([(key, Some(value.into()))].into())?;
            }
            Ok(Decision::Commit(calls))
        });
        (calls, decided)
    }

    #[test]
    fn a_decision_is_made_again_when_the_room_was_changed_meanwhile() {
        let (_dir, store) = store();
        store.decide("!a:b", Some("10"), |_| Ok::<_, StoreError>(Decision::Commit(()))).unwrap();
        let room = store.room_num("!a:b").unwrap().unwrap();
        let (calls, decided) = disturbed(&store, MAX_TRIES);
        assert_eq!(calls, MAX_TRIES);
        assert!(matches!(decided, Err(StoreError::Conflict { room_id }) if room_id == "!a:b"));
        assert_eq!(store.room(room).unwrap().next_event.0, 0);
        let mut other = store.room(room).unwrap();
        other.outliers = 0;
        let key = keys::room(room);
        let value = codec::add_checksum(&key, other.encode());
        store.engine.put([(key, Some(value.into()))].into()).unwrap();
        let (calls, decided) = disturbed(&store, 3);
        assert_eq!((calls, decided.unwrap()), (4, Some(4)));
        assert_eq!(store.room(room).unwrap().next_event.0, 1);
        assert!(store.event_num(room, "$of-call-4").unwrap().is_some());
        assert!(store.event_num(room, "$of-call-3").unwrap().is_none());
    }

    /// Decides about two rooms as a list of numbers says; returns all records.
    fn decide_all(store: &Store, numbers: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        for number in numbers {
            let room_id = if number % 2 == 0 { "!even:b" } else { "!odd:b" };
            match number % 16 {
                15 => drop(store.delete_room(room_id).unwrap()),
                14 => drop(store.forget_deleted_room(room_id).unwrap()),
                13 => store.bury_room(room_id).unwrap(),
                kind => {
                    let decided = store.decide(room_id, Some("10"), |edit| {
                        let event_id = format!("${}", edit.room.next_event.0);
                        let event = edit.add_event(&event_id);
                        edit.put_body(event, &event_id, &[*number]);
                        edit.room.next_arrival += 1;
                        let decision = if kind < 2 { Decision::Discard } else { Decision::Commit };
                        Ok::<_, StoreError>(decision(event))
                    });
                    decided.unwrap();
                }
            }
        }
        store.records()
    }

    proptest! {
        #[test]
        fn decisions_with_conflicts_give_the_same_store(seed: u64, numbers: Vec<u8>) {
            let expected = decide_all(&Store::with_conflicts(seed, 0), &numbers);
            prop_assert_eq!(decide_all(&Store::with_conflicts(seed, 3), &numbers), expected);
        }
    }

    #[test]
    fn a_room_that_does_not_exist_or_was_deleted_is_not_decided_about() {
        let (_dir, store) = store();
        let decide = |make| {
            store.decide("!a:b", make, |_| Ok::<_, StoreError>(Decision::Commit(()))).unwrap()
        };
        assert_eq!(decide(None), None);
        assert_eq!(decide(Some("10")), Some(()));
        assert_eq!(decide(None), Some(()));
        store.delete_room("!a:b").unwrap().unwrap();
        assert_eq!(decide(Some("10")), None);
    }
}
