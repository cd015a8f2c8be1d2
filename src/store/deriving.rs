//! Notes about what is to be derived again in a room, because a verdict or bytes were replaced, or
//! because events were removed.

use super::{
    Arrival, Edit, EventNum, RoomNum, StoreError, StoredValue, View, codec::strip_checksum, keys,
    record,
};

/// What is to be derived again for an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeriveAgain {
    /// Whether the state after the event is.
    pub state: bool,
    /// Whether it is to be determined again if an accepted event follows the event.
    pub followed: bool,
    /// The states before all events with several predecessors are, beginning with this number.
    pub merges_from: Option<EventNum>,
    /// The judgements on all redactions that arrived after this are.
    pub judge_after: Option<Arrival>,
}

impl DeriveAgain {
    /// The state after the event only.
    pub const STATE: Self =
        Self { state: true, followed: false, merges_from: None, judge_after: None };
    /// Only whether an accepted event follows.
    pub const FOLLOWED: Self =
        Self { state: false, followed: true, merges_from: None, judge_after: None };

    /// Both this and another.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            state: self.state || other.state,
            followed: self.followed || other.followed,
            merges_from: [self.merges_from, other.merges_from].into_iter().flatten().min(),
            judge_after: [self.judge_after, other.judge_after].into_iter().flatten().min(),
        }
    }
}

/// An event for which something is to be derived again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedAgain {
    /// The event.
    pub event: EventNum,
    /// What is to be derived again.
    pub again: DeriveAgain,
}

/// What is noted about deriving again.
pub trait Deriving: View {
    /// Whether a room is being derived again: some of what is stored follows from what was
    /// replaced, so the room must not be served.
    fn is_deriving(&self, room: RoomNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::deriving(room))?.is_some())
    }

    /// Whether an event of a room is noted. While one is, no other state of the room is derived:
    /// it could follow from one that is to be derived again.
    fn has_derive_again(&self, room: RoomNum) -> Result<bool, StoreError> {
        let prefix = keys::deriving(room);
        Ok(!self.scan(&prefix, Some(&prefix), 1)?.is_empty())
    }

    /// The events of a room that are noted, in ascending order.
    fn noted_again(&self, room: RoomNum) -> Result<Vec<NotedAgain>, StoreError> {
        let prefix = keys::deriving(room);
        let records = self.scan(&prefix, Some(&prefix), usize::MAX)?;
        let noted = |(key, value): &(Vec<u8>, StoredValue)| {
            let event = EventNum(keys::last_number(key)?);
            let again = strip_checksum(key, value).and_then(record::decode_derive_again).ok()?;
            Some(NotedAgain { event, again })
        };
        let damaged = |key: &[u8]| StoreError::corrupt("derive-again note", key);
        records.iter().map(|it| noted(it).ok_or_else(|| damaged(&it.0))).collect()
    }

    /// What is to be derived again for an event; `None` if the event is not noted.
    fn derive_again(
        &self,
        room: RoomNum,
        event: EventNum,
    ) -> Result<Option<DeriveAgain>, StoreError> {
        let key = keys::derive_again(room, event);
        self.read("derive-again note", &key, record::decode_derive_again)
    }
}

impl<V: View> Deriving for V {}

impl Edit<'_> {
    /// Notes that something is to be derived again for an event, beside what is noted already.
    pub fn note_derive_again(
        &mut self,
        event: EventNum,
        again: DeriveAgain,
    ) -> Result<(), StoreError> {
        let noted = self.derive_again(self.number, event)?.unwrap_or_default();
        self.put_derive_again(event, noted.and(again));
        if !self.is_deriving(self.number)? {
            self.put(keys::deriving(self.number), Vec::new());
        }
        self.has_unsettled = true;
        Ok(())
    }

    /// Replaces what is noted for an event; the default removes the note.
    pub fn put_derive_again(&mut self, event: EventNum, again: DeriveAgain) {
        let key = keys::derive_again(self.number, event);
        if again == DeriveAgain::default() {
            self.remove(key);
        } else {
            self.put(key, record::encode_derive_again(again));
        }
    }

    /// Removes the note that the room is being derived again.
    pub fn end_deriving(&mut self) {
        self.remove(keys::deriving(self.number));
    }

    /// Removes a power levels event from the list.
    pub fn remove_power(&mut self, arrival: i64, event: EventNum) {
        self.remove(keys::power(self.number, arrival, event));
    }
}
