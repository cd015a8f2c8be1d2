//! Records that nothing refers to, or that cannot be read. A walk through rooms and events sees only
//! the records that others lead to; this looks at every record on disk.
//!
//! Other writers may be active meanwhile, so a record that looks wrong is looked at again while its
//! room is locked; and once more before it is removed on request.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{
    EventNum, Extremity, NotServedReason, PrevEvent, RoomNum, Store, StoreError, Topology, View,
    codec::strip_checksum,
    decide::retried,
    engine::{Commit, Effect},
    keys::{self, Part, Parts},
    record::{self, Room},
    view::number_or_gone,
};
use crate::num;

/// A record that nothing refers to, or that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// The room that its key names; `None` if the store holds no such room.
    pub room_id: Option<String>,
    /// What is wrong with it.
    pub reason: OrphanReason,
    key: Vec<u8>,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (key ", self.reason)?;
        self.key.iter().try_for_each(|it| write!(f, "{it:02x}"))?;
        write!(f, ")")
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum OrphanReason {
    /// Its key is of no kind that this build knows.
    #[error("a record of no known kind")]
    NoKind,
    /// Its checksum is wrong. Holds the kind of the record, if it belongs to a room.
    #[error("a record is damaged")]
    Damaged(Option<Part>),
    /// The record of a room is malformed.
    #[error("a room's record is damaged")]
    RoomDamaged,
    /// The number that a room id maps to is malformed.
    #[error("a room's number is damaged")]
    RoomNumberDamaged,
    /// A room id maps to a number without a record, or to that of another room.
    #[error("a room's id leads to no record of it")]
    RoomNowhere,
    /// The store does not hold the room, and did not delete it.
    #[error("a record of a room that is not held")]
    NoRoom,
    /// The number that an event id maps to is malformed.
    #[error("an event's number is damaged")]
    EventNumberDamaged,
    /// An event id maps to a number that was given, but whose event is lost.
    #[error("an id leads to an event that is lost")]
    EventLost,
    /// An event id maps to a number that was never given.
    #[error("an id leads to an event number that was never given")]
    EventToCome,
    /// All event numbers of a page were never given.
    #[error("a page of event numbers that were never given")]
    PageToCome,
    /// The number of a state was never given.
    #[error("a state whose number was never given")]
    StateToCome,
    /// The event of the record is not held.
    #[error("a record of an event that is not held")]
    OfNoEvent(Part),
    /// One of the two events of a note is not held.
    #[error("a note about an event that is not held")]
    NoteOfNoEvent,
    /// The event has another arrival.
    #[error("an arrival that no event has")]
    NoArrival,
    /// The event is no forward extremity, or has another arrival or another state.
    #[error("a forward extremity that the event is not")]
    NoExtremity,
    /// The follower has no such edge, or the predecessor is held.
    #[error("a missing predecessor is noted where none is missing")]
    NothingMissing,
}

/// The position after a page of [`Store::orphans`]; the default is the start.
#[derive(Clone, Debug, Default)]
pub struct Cursor(Option<Vec<u8>>);

/// The rooms that were read while records were looked at; `None` for a number without a room.
#[derive(Default)]
struct RoomsRead<'s>(BTreeMap<RoomNum, Option<RoomRead<'s>>>);

/// A room that was read while records were looked at.
struct RoomRead<'s> {
    record: Room,
    topology: Topology<'s, Store>,
}

impl Store {
    /// Looks at `limit` records at most. Returns the orphans among them, and the cursor for the
    /// next call; `None` if there are no more records.
    pub fn orphans(
        &self,
        from: &Cursor,
        limit: usize,
    ) -> Result<(Vec<Orphan>, Option<Cursor>), StoreError> {
        let records = self.scan(&[], from.0.as_deref(), limit)?;
        let mut found = Vec::new();
        let mut rooms = RoomsRead::default();
        for (key, value) in &records {
            if self.wrong_with(key, value, &mut rooms)?.is_some() {
                found.extend(self.confirmed(key)?);
            }
        }
        let next = records.into_iter().next_back().map(|(key, _)| Cursor(Some(key)));
        Ok((found, next))
    }

    /// Looks at a record again, while no other writer changes its room.
    fn confirmed(&self, key: &[u8]) -> Result<Option<Orphan>, StoreError> {
        let room_id = self.room_id_for(key)?;
        let _guard = room_id.as_ref().map(|it| self.room_locks.lock(it));
        let mut stamp = None;
        loop {
            if let Some(room_id) = &room_id {
                self.may_have_changed(room_id, &mut stamp)?;
            }
            let wrong = match self.value(key)? {
                Some(value) => self.wrong_with(key, &value, &mut RoomsRead::default())?,
                None => None,
            };
            // A record of a deleted room may have been removed since the first read.
            let wrong = wrong.filter(|_| matches!(self.value(key), Ok(Some(_))));
            let Some(reason) = wrong else { return Ok(None) };
            // The lock does not keep other processes from changing the room.
            let is_changed = match &room_id {
                Some(room_id) => self.may_have_changed(room_id, &mut stamp)?,
                None => false,
            };
            if !is_changed {
                return Ok(Some(Orphan { room_id, reason, key: key.to_vec() }));
            }
        }
    }

    /// Removes a record, if the same is still wrong with it.
    pub fn remove_orphan(&self, orphan: &Orphan) -> Result<(), StoreError> {
        let _guard = orphan.room_id.as_ref().map(|it| self.room_locks.lock(it));
        let name = orphan.room_id.as_deref().unwrap_or_default();
        retried(name, || {
            // Another process may change the room meanwhile.
            let by_name = orphan.room_id.as_deref().map(keys::room_by_name);
            let seen = by_name.filter(|_| self.is_shared()).map(|it| self.engine.see(it));
            let seen = seen.transpose()?.filter(|it| it.value.is_some());
            let Some(value) = self.value(&orphan.key)? else { return Ok(Some(())) };
            let wrong = self.wrong_with(&orphan.key, &value, &mut RoomsRead::default())?;
            if wrong != Some(orphan.reason) {
                return Ok(Some(()));
            }
            let changes = [(orphan.key.clone(), None)].into();
            let commit = self.engine.commit(seen.as_ref(), changes, Effect::Replaces)?;
            Ok((commit == Commit::Done).then_some(()))
        })
    }

    /// The room whose lock guards a record; `None` if no room's does.
    fn room_id_for(&self, key: &[u8]) -> Result<Option<String>, StoreError> {
        Ok(match keys::parts(key) {
            Some(Parts::RoomName(room_id)) => Some(room_id.to_owned()),
            Some(Parts::Store | Parts::RoomNotServed) | None => None,
            Some(Parts::Room(room) | Parts::OfRoom(room, _)) => match self.find_room(room) {
                Ok(room) => room.map(|it| it.room_id),
                Err(StoreError::Corrupt { .. }) => None,
                Err(other) => return Err(other),
            },
        })
    }

    /// What is wrong with a record; `None` if nothing seems to be. A damaged record of a room, and
    /// a damaged page, are reported where they are themselves looked at, so what depends on them
    /// counts as right.
    fn wrong_with<'s>(
        &'s self,
        key: &[u8],
        value: &[u8],
        rooms: &mut RoomsRead<'s>,
    ) -> Result<Option<OrphanReason>, StoreError> {
        let Some(parts) = keys::parts(key) else { return Ok(Some(OrphanReason::NoKind)) };
        let Ok(bytes) = strip_checksum(key, value) else {
            return Ok(Some(OrphanReason::Damaged(keys::part(key))));
        };
        let (room, of) = match parts {
            Parts::Store => return Ok(None),
            Parts::RoomNotServed => {
                return Ok(NotServedReason::decode(bytes)
                    .err()
                    .map(|_| OrphanReason::Damaged(None)));
            }
            Parts::Room(_) => {
                return Ok(Room::decode(bytes).err().map(|_| OrphanReason::RoomDamaged));
            }
            Parts::RoomName(room_id) => return Ok(self.wrong_with_room_name(room_id, bytes)),
            Parts::OfRoom(room, of) => (room, of),
        };
        let read = match rooms.0.entry(room) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(entry) => {
                let record = match self.find_room(room) {
                    Err(StoreError::Corrupt { .. }) => return Ok(None),
                    other => other?,
                };
                let topology = self.topology(room);
                entry.insert(record.map(|record| RoomRead { record, topology }))
            }
        };
        match read {
            Some(read) => match read.wrong_with(key, of, bytes) {
                Err(StoreError::Corrupt { .. }) => Ok(None),
                other => other,
            },
            None if self.value(&keys::deleted_room(room))?.is_some() => Ok(None),
            None => Ok(Some(OrphanReason::NoRoom)),
        }
    }

    /// What is wrong with the record that maps a room id to a number.
    fn wrong_with_room_name(&self, room_id: &str, bytes: &[u8]) -> Option<OrphanReason> {
        let Ok(number) = number_or_gone(bytes) else {
            return Some(OrphanReason::RoomNumberDamaged);
        };
        let room = self.find_room(RoomNum(number?));
        let is_same = matches!(room, Ok(Some(room)) if room.room_id == room_id);
        (!is_same).then_some(OrphanReason::RoomNowhere)
    }
}

impl RoomRead<'_> {
    /// Why nothing refers to a record of this room; `None` if something does.
    fn wrong_with(
        &self,
        key: &[u8],
        of: keys::Of,
        bytes: &[u8],
    ) -> Result<Option<OrphanReason>, StoreError> {
        let room = &self.record;
        let is_held = |event: EventNum| self.topology.node(event).map(|it| it.is_some());
        let (is_right, reason) = match of {
            keys::Of::Id => match number_or_gone(bytes) {
                Ok(Some(event)) if event >= room.next_event.0 => (false, OrphanReason::EventToCome),
                Ok(Some(event)) => (is_held(EventNum(event))?, OrphanReason::EventLost),
                Ok(None) => return Ok(None),
                Err(_) => (false, OrphanReason::EventNumberDamaged),
            },
            keys::Of::Whole => return Ok(None),
            keys::Of::Page(page) => {
                let first = page.saturating_mul(keys::PAGE_EVENTS);
                (first < room.next_event.0, OrphanReason::PageToCome)
            }
            keys::Of::State(state) => (state < room.next_state, OrphanReason::StateToCome),
            keys::Of::Event(event) => {
                let part = keys::part(key).unwrap_or(Part::Note);
                (is_held(event)?, OrphanReason::OfNoEvent(part))
            }
            keys::Of::Both(event, follower) => {
                (is_held(event)? && is_held(follower)?, OrphanReason::NoteOfNoEvent)
            }
            keys::Of::Arrival(arrival, event) => {
                let node = self.topology.node(event)?;
                (node.is_some_and(|it| it.arrival == arrival), OrphanReason::NoArrival)
            }
            keys::Of::Extremity(arrival, event) => {
                let held = self.topology.node(event)?.and_then(|it| it.extremity(event));
                let is_it = |it: Extremity| {
                    it.arrival == arrival && record::decode_extremity(bytes) == Ok(it.state_after)
                };
                (held.is_some_and(is_it), OrphanReason::NoExtremity)
            }
            keys::Of::Missing(follower) => {
                let edge = match record::decode_missing(bytes) {
                    Ok(missing) => self
                        .topology
                        .node(follower)?
                        .and_then(|it| it.prev_events.get(num::usize(missing.index)).copied()),
                    Err(_) => None,
                };
                (edge == Some(PrevEvent::Missing), OrphanReason::NothingMissing)
            }
        };
        Ok((!is_right).then_some(reason))
    }
}
