//! Which rooms are served to other servers, and which still have to be made equal. Pure.
//!
//! The history service keeps why a room is not served. So its list is also the list of the rooms that
//! are still to be copied: after a restart the follower reads it and continues.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::progress::CopiesLeft;
use crate::proto::v1::NotServedReason;

/// Largest number of rooms in one call.
const MAX_ROOMS_PER_CALL: usize = 1_000;

/// What the follower knows of the rooms.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// Why rooms are not served, as the history service knows it.
    told: BTreeMap<String, NotServedReason>,
    /// Rooms whose reason may have changed since it was told.
    touched: BTreeSet<String>,
    blocked: BTreeSet<String>,
    partial: BTreeSet<String>,
    differing: BTreeSet<String>,
    /// Rooms that are to be made equal.
    owed: BTreeSet<String>,
    /// Those of them that are looked at first.
    urgent: VecDeque<String>,
    /// Those of them that are copied for the first time, in the order in which they are taken.
    first_copies: VecDeque<RoomSize>,
    /// Number of events of these.
    events_left: u64,
    /// Those of them that are being made equal now.
    in_work: BTreeSet<String>,
    /// Those of them that have changed since.
    again: BTreeSet<String>,
}

/// A room with its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoomSize {
    /// The room.
    pub(crate) room_id: String,
    /// Number of its events.
    pub(crate) events: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Make a room equal.
    Equalise(String),
    /// Copy rooms that have few events together, or one room.
    Copy(Vec<RoomSize>),
}

/// Rooms for which the history service is to be told the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Why they are not served; unspecified to serve them.
    pub(crate) reason: NotServedReason,
    /// The rooms. At most 1,000.
    pub(crate) room_ids: Vec<String>,
}

/// Number of rooms in each state, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomCounts {
    /// Rooms that are to be made equal.
    pub(crate) importing: usize,
    /// Rooms whose full state Synapse does not know.
    pub(crate) partial: usize,
    /// Rooms that are blocked, or differ.
    pub(crate) not_served: usize,
}

impl Rooms {
    /// Begins with what the history service knows. The rooms that it has as IMPORTING are owed, and so
    /// are those that it has as PARTIAL_STATE once Synapse knows their state.
    pub(crate) fn new(told: BTreeMap<String, NotServedReason>) -> Self {
        let mut rooms = Self::default();
        for (room_id, reason) in &told {
            match reason {
                NotServedReason::Importing => {
                    rooms.owed.insert(room_id.clone());
                }
                NotServedReason::PartialState => {
                    rooms.partial.insert(room_id.clone());
                }
                NotServedReason::Blocked => {
                    rooms.blocked.insert(room_id.clone());
                }
                NotServedReason::Differs => {
                    rooms.differing.insert(room_id.clone());
                }
                NotServedReason::Unspecified | NotServedReason::Deriving => {}
            }
        }
        // What the service itself decides is not ours to tell.
        rooms.told = told;
        rooms.told.retain(|_, reason| *reason != NotServedReason::Deriving);
        rooms
    }

    /// The rooms that are owed.
    pub(crate) fn owed(&self) -> &BTreeSet<String> {
        &self.owed
    }

    /// Number of rooms in each state.
    pub(crate) fn counts(&self) -> RoomCounts {
        RoomCounts {
            importing: self.owed.len(),
            partial: self.partial.len(),
            not_served: self.blocked.len() + self.differing.len(),
        }
    }

    /// The rooms that are still to be copied for the first time.
    pub(crate) fn copies_left(&self) -> CopiesLeft {
        let rooms = u64::try_from(self.first_copies.len()).unwrap_or(u64::MAX);
        CopiesLeft { rooms, events: self.events_left }
    }

    /// Whether Synapse does not know the full state of the room.
    pub(crate) fn is_partial(&self, room_id: &str) -> bool {
        self.partial.contains(room_id)
    }

    /// Sets the rooms that are blocked.
    pub(crate) fn set_blocked(&mut self, blocked: BTreeSet<String>) {
        let old = std::mem::replace(&mut self.blocked, blocked);
        self.touched.extend(old.symmetric_difference(&self.blocked).cloned());
    }

    /// Sets the rooms whose full state Synapse does not know. Those that were among them and no longer
    /// are become owed.
    pub(crate) fn set_partial(&mut self, partial: BTreeSet<String>) {
        let old = std::mem::replace(&mut self.partial, partial);
        self.touched.extend(old.symmetric_difference(&self.partial).cloned());
        let left: Vec<String> = old.difference(&self.partial).cloned().collect();
        for room_id in left {
            self.owe(&room_id);
        }
    }

    /// Sets whether a room differs although it was mended.
    pub(crate) fn set_differing(&mut self, room_id: &str, differs: bool) {
        let changed = if differs {
            self.differing.insert(room_id.to_owned())
        } else {
            self.differing.remove(room_id)
        };
        if changed {
            self.touched.insert(room_id.to_owned());
        }
    }

    /// A room is to be made equal, before others. It is not served until that is done.
    pub(crate) fn owe(&mut self, room_id: &str) {
        if self.in_work.contains(room_id) {
            self.again.insert(room_id.to_owned());
        } else if !self.urgent.iter().any(|it| it == room_id) {
            self.urgent.push_back(room_id.to_owned());
        }
        self.owed.insert(room_id.to_owned());
        self.touched.insert(room_id.to_owned());
    }

    /// Rooms are to be copied, in this order, after those that are owed for other reasons. They are not
    /// served until that is done.
    pub(crate) fn copy_first(&mut self, rooms: Vec<RoomSize>) {
        for room in &rooms {
            self.owed.insert(room.room_id.clone());
            self.touched.insert(room.room_id.clone());
            self.events_left = self.events_left.saturating_add(room.events);
        }
        self.first_copies.extend(rooms);
    }

    /// Takes the next work: an urgent room, or rooms to copy that have at most `max_events` together (or
    /// one that has more). `None` if there is none.
    pub(crate) fn take(&mut self, max_events: u64) -> Option<Work> {
        if let Some(room_id) = self.urgent.pop_front() {
            self.in_work.insert(room_id.clone());
            return Some(Work::Equalise(room_id));
        }
        let (mut batch, mut events) = (Vec::new(), 0_u64);
        while let Some(room) = self.first_copies.front() {
            events = events.saturating_add(room.events);
            if !batch.is_empty() && (events > max_events || batch.len() >= MAX_ROOMS_PER_CALL) {
                break;
            }
            self.events_left = self.events_left.saturating_sub(room.events);
            batch.extend(self.first_copies.pop_front());
        }
        self.in_work.extend(batch.iter().map(|it: &RoomSize| it.room_id.clone()));
        (!batch.is_empty()).then_some(Work::Copy(batch))
    }

    /// A room that was taken is equal now. If it has changed since, it is taken again.
    pub(crate) fn done(&mut self, room_id: &str) {
        self.in_work.remove(room_id);
        if self.again.remove(room_id) {
            self.urgent.push_back(room_id.to_owned());
        } else if !self.urgent.iter().any(|it| it == room_id) {
            self.owed.remove(room_id);
            self.touched.insert(room_id.to_owned());
        }
    }

    /// What the history service has to be told.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let mut by_reason = BTreeMap::<i32, Change>::new();
        let mut full = Vec::new();
        for room_id in std::mem::take(&mut self.touched) {
            let reason = self.reason(&room_id);
            if self.told.get(&room_id).copied().unwrap_or_default() == reason {
                continue;
            }
            let change = by_reason
                .entry(reason.into())
                .or_insert_with(|| Change { reason, room_ids: Vec::new() });
            change.room_ids.push(room_id);
            if change.room_ids.len() == MAX_ROOMS_PER_CALL {
                full.extend(by_reason.remove(&reason.into()));
            }
        }
        full.extend(by_reason.into_values());
        full
    }

    /// The history service was told. Its answer is awaited by the caller; if it fails, the attempt to
    /// follow ends.
    pub(crate) fn told(&mut self, change: Change) {
        for room_id in change.room_ids {
            if change.reason == NotServedReason::Unspecified {
                self.told.remove(&room_id);
            } else {
                self.told.insert(room_id, change.reason);
            }
        }
    }

    /// Why a room is not served.
    fn reason(&self, room_id: &str) -> NotServedReason {
        if self.blocked.contains(room_id) {
            NotServedReason::Blocked
        } else if self.partial.contains(room_id) {
            NotServedReason::PartialState
        } else if self.owed.contains(room_id) {
            NotServedReason::Importing
        } else if self.differing.contains(room_id) {
            NotServedReason::Differs
        } else {
            NotServedReason::Unspecified
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rooms: &[&str]) -> BTreeSet<String> {
        rooms.iter().map(|it| (*it).to_owned()).collect()
    }

    /// Tells everything; returns it as text.
    fn tell(rooms: &mut Rooms) -> Vec<String> {
        let changes = rooms.changes();
        let text = changes.iter().map(|it| format!("{:?} {}", it.reason, it.room_ids.join(" ")));
        let text = text.collect();
        for change in changes {
            rooms.told(change);
        }
        text
    }

    #[test]
    fn a_room_that_changes_while_it_is_made_equal_is_taken_again() {
        let mut rooms = Rooms::default();
        rooms.owe("!a");
        rooms.owe("!a");
        assert_eq!(rooms.take(10), Some(Work::Equalise("!a".to_owned())));
        assert_eq!(rooms.take(10), None);
        rooms.owe("!a");
        rooms.done("!a");
        assert_eq!(tell(&mut rooms), ["Importing !a"]);
        assert_eq!(rooms.take(10), Some(Work::Equalise("!a".to_owned())));
        rooms.done("!a");
        assert_eq!(tell(&mut rooms), ["Unspecified !a"]);
        assert_eq!(rooms.take(10), None);
    }

    #[test]
    fn small_rooms_are_taken_together_and_urgent_ones_first() {
        let mut rooms = Rooms::default();
        let size = |room: &str, events| RoomSize { room_id: room.to_owned(), events };
        let (a, b, c) = (size("!a", 6), size("!b", 4), size("!c", 1));
        rooms.copy_first(vec![size("!large", 50), a.clone(), b.clone(), c.clone()]);
        rooms.owe("!u");
        assert_eq!(rooms.take(10), Some(Work::Equalise("!u".to_owned())));
        assert_eq!(rooms.take(10), Some(Work::Copy(vec![size("!large", 50)])));
        assert_eq!(rooms.take(10), Some(Work::Copy(vec![a, b])));
        assert_eq!(rooms.take(10), Some(Work::Copy(vec![c])));
        assert_eq!(rooms.take(10), None);
    }

    #[test]
    fn a_restart_continues_with_what_the_history_service_knows() {
        let told = [("!i", NotServedReason::Importing), ("!p", NotServedReason::PartialState)];
        let told = told.map(|(room, reason)| (room.to_owned(), reason));
        let mut rooms = Rooms::new(told.into_iter().collect());
        assert_eq!(rooms.owed(), &set(&["!i"]));
        rooms.set_partial(set(&["!q"]));
        assert_eq!(rooms.owed(), &set(&["!i", "!p"]));
        assert_eq!(tell(&mut rooms), ["Importing !p", "PartialState !q"]);
    }

    #[test]
    fn the_strongest_reason_is_told() {
        let mut rooms = Rooms::default();
        rooms.owe("!a");
        rooms.set_differing("!a", true);
        rooms.set_partial(set(&["!a"]));
        rooms.set_blocked(set(&["!a"]));
        assert_eq!(tell(&mut rooms), ["Blocked !a"]);
        rooms.set_blocked(set(&[]));
        assert_eq!(tell(&mut rooms), ["PartialState !a"]);
        rooms.set_partial(set(&[]));
        assert_eq!(tell(&mut rooms), ["Importing !a"]);
        assert_eq!(rooms.take(1), Some(Work::Equalise("!a".to_owned())));
        rooms.done("!a");
        assert_eq!(tell(&mut rooms), ["Differs !a"]);
        rooms.set_differing("!a", false);
        assert_eq!(tell(&mut rooms), ["Unspecified !a"]);
        assert_eq!(tell(&mut rooms), Vec::<String>::new());
    }
}
