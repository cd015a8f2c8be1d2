//! What the sweeps have done and what they owe. Pure; part of the cursor of the follower.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::follow::late::SweepKind;

/// The most rooms that are compared before others. With more, all rooms are compared.
const MAX_SOON: usize = 100;
/// The most rooms of which it is remembered that they were copied whole again.
const MAX_COPIED_AGAIN: usize = 50;

/// The times between two sweeps, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// Between two sweeps of the flags.
    pub(crate) flags: u64,
    /// Between two sweeps of the bytes.
    pub(crate) bytes: u64,
}

/// What the sweeps have done. Part of the cursor. Times are those of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SweepCursor {
    /// Why all rooms must be swept before the rooms that are served are complete; `None` if they need
    /// not.
    pub(crate) owed: Option<String>,
    /// The sweep under way.
    pass: Option<Pass>,
    /// When the flags of all rooms were last compared, in seconds since 1970. Zero: never.
    last_flags: u64,
    /// When the bytes of all events were last compared, in seconds since 1970. Zero: never.
    last_bytes: u64,
    /// Rooms to compare before all others.
    soon: BTreeSet<String>,
    /// Rooms that were copied whole again, and have not been equal since; whether they differed even
    /// after that.
    copied_again: BTreeMap<String, bool>,
}

/// A sweep of all rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// What it compares.
    pub(crate) kind: SweepKind,
    /// All rooms up to this one are done, in the order of the database.
    pub(crate) after: String,
}

impl SweepCursor {
    /// From now on, a sweep of all rooms is owed before rooms are served. One that is under way begins
    /// again.
    pub(crate) fn owe(&mut self, why: &str) {
        tracing::warn!(why, "all rooms are compared before they are served again");
        self.owed = Some(why.to_owned());
        self.pass = None;
    }

    /// Compares a room before all others.
    pub(crate) fn compare_soon(&mut self, room_id: &str) {
        if self.soon.len() < MAX_SOON {
            self.soon.insert(room_id.to_owned());
        } else {
            // All rooms are compared at once instead.
            self.last_flags = 1;
        }
    }

    /// The room to compare next, before all others.
    #[must_use]
    pub(super) fn next_soon(&self) -> Option<String> {
        self.soon.first().cloned()
    }

    /// A room was compared.
    pub(super) fn compared(&mut self, room_id: &str) {
        self.soon.remove(room_id);
    }

    /// A room is to be copied whole again. Returns false if that was done before, and the room was not
    /// equal since.
    pub(crate) fn copy_again(&mut self, room_id: &str) -> bool {
        if let Some(differs) = self.copied_again.get_mut(room_id) {
            *differs = true;
            return false;
        }
        if self.copied_again.len() >= MAX_COPIED_AGAIN {
            let oldest = self.copied_again.iter().find(|(_, differs)| !**differs);
            match oldest.map(|(room_id, _)| room_id.clone()) {
                Some(other) => drop(self.copied_again.remove(&other)),
                // So many rooms differ that it is not remembered which.
                None => return false,
            }
        }
        self.copied_again.insert(room_id.to_owned(), false);
        true
    }

    /// Whether a room was copied whole again, and has not been equal since.
    #[must_use]
    pub(super) fn was_copied_again(&self, room_id: &str) -> bool {
        self.copied_again.contains_key(room_id)
    }

    /// A room is equal. Returns whether it was marked as different.
    pub(crate) fn is_equal(&mut self, room_id: &str) -> bool {
        self.copied_again.remove(room_id).unwrap_or_default()
    }

    /// The sweep to continue or to begin at a time; `None` if none is due.
    pub(super) fn due(&mut self, now: u64, every: Intervals) -> Option<Pass> {
        if self.last_flags == 0 {
            // The first import has just compared everything.
            (self.last_flags, self.last_bytes) = (now.max(1), now.max(1));
        }
        if self.pass.is_none() {
            let is_due = |last: u64, every: u64| last.saturating_add(every) <= now;
            let kind = match self.owed {
                Some(_) => Some(SweepKind::Bytes),
                None if is_due(self.last_bytes, every.bytes) => Some(SweepKind::Bytes),
                None if is_due(self.last_flags, every.flags) => Some(SweepKind::Flags),
                None => None,
            };
            self.pass = kind.map(|kind| Pass { kind, after: String::new() });
        }
        self.pass.clone()
    }

    /// All rooms up to one are done, unless the sweep has begun again meanwhile.
    pub(super) fn done_up_to(&mut self, pass: &Pass, room_id: &str) {
        if let Some(current) = self.pass.as_mut().filter(|it| *it == pass) {
            room_id.clone_into(&mut current.after);
        }
    }

    /// All rooms are done. Returns false if the sweep has begun again meanwhile.
    pub(super) fn finish(&mut self, pass: &Pass, now: u64) -> bool {
        if self.pass.as_ref() != Some(pass) {
            return false;
        }
        self.pass = None;
        self.last_flags = now.max(1);
        if pass.kind == SweepKind::Bytes {
            self.last_bytes = now.max(1);
            self.owed = None;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Intervals = Intervals { flags: 10, bytes: 100 };

    fn pass(kind: SweepKind, after: &str) -> Pass {
        Pass { kind, after: after.to_owned() }
    }

    #[test]
    fn sweeps_are_due_after_their_intervals() {
        let mut cursor = SweepCursor::default();
        assert_eq!(cursor.due(1_000, EVERY), None);
        assert_eq!(cursor.due(1_009, EVERY), None);
        let flags = pass(SweepKind::Flags, "");
        assert_eq!(cursor.due(1_010, EVERY), Some(flags.clone()));
        cursor.done_up_to(&flags, "!a:b");
        let stored = serde_json::to_string(&cursor).unwrap();
        let mut resumed: SweepCursor = serde_json::from_str(&stored).unwrap();
        let continued = pass(SweepKind::Flags, "!a:b");
        assert_eq!(resumed.due(1_011, EVERY), Some(continued.clone()));
        assert!(resumed.finish(&continued, 1_012));
        assert_eq!(resumed.due(1_021, EVERY), None);
        assert_eq!(resumed.due(1_100, EVERY), Some(pass(SweepKind::Bytes, "")));
    }

    #[test]
    fn what_is_owed_begins_at_once_and_again() {
        let mut cursor = SweepCursor::default();
        assert_eq!(cursor.due(1_000, EVERY), None);
        cursor.owe("the database went back");
        let first = cursor.due(1_001, EVERY).unwrap();
        assert_eq!(first, pass(SweepKind::Bytes, ""));
        cursor.done_up_to(&first, "!m:b");
        cursor.owe("the database went back again");
        assert!(!cursor.finish(&pass(SweepKind::Bytes, "!m:b"), 1_002));
        assert!(cursor.owed.is_some());
        let again = cursor.due(1_003, EVERY).unwrap();
        assert_eq!(again, first);
        assert!(cursor.finish(&again, 1_004));
        assert_eq!(cursor.owed, None);
    }

    #[test]
    fn a_room_is_copied_whole_once_until_it_is_equal() {
        let mut cursor = SweepCursor::default();
        assert!(cursor.copy_again("!a:b"));
        assert!(!cursor.copy_again("!a:b"));
        assert!(cursor.is_equal("!a:b"), "it was marked");
        assert!(!cursor.is_equal("!a:b"));
        assert!(cursor.copy_again("!a:b"));
        assert!(!cursor.is_equal("!a:b"), "it was not marked");
    }

    #[test]
    fn a_cursor_stays_small() {
        let mut cursor = SweepCursor::default();
        assert_eq!(cursor.due(1_000, EVERY), None);
        for number in 0..10_000 {
            let room_id = format!("!{number:0>240}:b");
            cursor.compare_soon(&room_id);
            let _first = cursor.copy_again(&room_id);
        }
        assert!(serde_json::to_string(&cursor).unwrap().len() < 40_000);
        let due = cursor.due(1_001, EVERY);
        assert_eq!(due, Some(pass(SweepKind::Flags, "")), "all rooms are compared instead");
    }
}
