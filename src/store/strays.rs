//! Records that should not be there. Whoever walks through rooms and events sees only what
//! something leads to; this looks at every record on disk: can it be read, and is there what it
//! belongs to?
//!
//! Others may write meanwhile: what looks wrong is looked at again with its room held still. So it is
//! once more before it is removed, when somebody asks for that.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{
    EventNum, Extremity, PrevEvent, RoomNum, Store, StoreError, Topology, View,
    codec::unseal,
    keys::{self, Part, Parts},
    record::{self, Room},
    view::number_or_gone,
};

/// A record that should not be there, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    /// The room it names, if it names one that is here.
    pub room_id: Option<String>,
    /// What is wrong with it.
    pub what: Astray,
    key: Vec<u8>,
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (key ", self.what)?;
        self.key.iter().try_for_each(|it| write!(f, "{it:02x}"))?;
        write!(f, ")")
    }
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Astray {
    /// Its key is none of ours.
    #[error("a record of no kind")]
    NoKind,
    /// Its checksum does not fit; of which kind it is, if it is a room's.
    #[error("a record is damaged")]
    Damaged(Option<Part>),
    /// A room's own record does not say what it should.
    #[error("a room's record is damaged")]
    RoomDamaged,
    /// Where a room's id leads cannot be read.
    #[error("a room's number is damaged")]
    RoomNumberDamaged,
    /// A room's id leads to no record, or to that of another.
    #[error("a room's id leads nowhere")]
    RoomNowhere,
    /// The room is not here, and was not deleted.
    #[error("a record of a room that is not here")]
    NoRoom,
    /// Where an event's id leads cannot be read.
    #[error("an event's number is damaged")]
    EventNumberDamaged,
    /// An event that came is not there any more.
    #[error("an id leads to no event")]
    EventLost,
    /// The number that an id leads to was never given.
    #[error("an id leads to no event, but to one that is to come")]
    EventToCome,
    /// Nodes of events whose numbers were never given.
    #[error("a page of events that never came")]
    PageToCome,
    /// A state whose number was never given.
    #[error("a state that never was")]
    StateToCome,
    /// The event is not held.
    #[error("a record of an event that is not held")]
    OfNoEvent(Part),
    /// One of the two events is not held.
    #[error("a note about an event that is not held")]
    NoteOfNoEvent,
    /// The event did not arrive then.
    #[error("an arrival that is none")]
    NoArrival,
    /// The event is none, or did not arrive then, or the state after it is another.
    #[error("a forward extremity that is none")]
    NoExtremity,
    /// The follower has no such edge, or the event is there.
    #[error("a missing predecessor is noted where none is missing")]
    NothingMissing,
}

/// Where to go on.
#[derive(Clone, Debug, Default)]
pub struct Place(Option<Vec<u8>>);

/// What was read while looking at some records.
#[derive(Default)]
struct Seen<'s> {
    rooms: BTreeMap<RoomNum, Option<(Room, Topology<'s, Store>)>>,
}

impl Store {
    /// The numbers of rooms behind `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn room_nums(
        &self,
        after: Option<RoomNum>,
        limit: usize,
    ) -> Result<Vec<RoomNum>, StoreError> {
        let after = after.map(keys::room);
        let records = self.scan(&keys::rooms(), after.as_deref(), limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::room_of(key)).collect())
    }

    /// The record of a room, if the room is here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find_room(&self, room: RoomNum) -> Result<Option<Room>, StoreError> {
        self.read("room", &keys::room(room), Room::decode)
    }

    /// Whether there is a record of a room, whatever it says.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn has_room(&self, room: RoomNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::room(room))?.is_some())
    }

    /// Looks at some records, at most `limit`, and says where to go on.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn strays(
        &self,
        from: &Place,
        limit: usize,
    ) -> Result<(Vec<Stray>, Option<Place>), StoreError> {
        let records = self.scan(&[], from.0.as_deref(), limit)?;
        let (mut found, mut seen) = (Vec::new(), Seen::default());
        for (key, value) in &records {
            if self.wrong_with(key, value, &mut seen)?.is_some() {
                found.extend(self.confirmed(key)?);
            }
        }
        let next = records.into_iter().next_back().map(|(key, _)| Place(Some(key)));
        Ok((found, next))
    }

    /// Looks again, while nobody writes to the room.
    fn confirmed(&self, key: &[u8]) -> Result<Option<Stray>, StoreError> {
        let room_id = self.room_id_for(key)?;
        let _guard = room_id.as_ref().map(|it| self.room_locks.lock(it));
        let wrong = match self.value(key)? {
            Some(value) => self.wrong_with(key, &value, &mut Seen::default())?,
            None => None,
        };
        // What was left of a deleted room may have gone only now.
        let wrong = wrong.filter(|_| matches!(self.value(key), Ok(Some(_))));
        Ok(wrong.map(|what| Stray { room_id, what, key: key.to_vec() }))
    }

    /// Removes a record, if it is still as wrong as it was.
    ///
    /// # Errors
    /// When the store fails.
    pub fn remove_stray(&self, stray: &Stray) -> Result<(), StoreError> {
        let _guard = stray.room_id.as_ref().map(|it| self.room_locks.lock(it));
        if let Some(value) = self.value(&stray.key)?
            && self.wrong_with(&stray.key, &value, &mut Seen::default())? == Some(stray.what)
        {
            self.write(|tree| tree.remove(&stray.key))?;
        }
        Ok(())
    }

    /// The room whose writers a record belongs to.
    fn room_id_for(&self, key: &[u8]) -> Result<Option<String>, StoreError> {
        Ok(match keys::parts(key) {
            Some(Parts::RoomName(room_id)) => Some(room_id.to_owned()),
            Some(Parts::Store) | None => None,
            Some(Parts::Room(room) | Parts::OfRoom(room, _)) => match self.find_room(room) {
                Ok(room) => room.map(|it| it.room_id),
                Err(StoreError::Corrupt { .. }) => None,
                Err(other) => return Err(other),
            },
        })
    }

    /// What is wrong with a record as it stands, if anything seems to be.
    fn wrong_with<'s>(
        &'s self,
        key: &[u8],
        value: &[u8],
        seen: &mut Seen<'s>,
    ) -> Result<Option<Astray>, StoreError> {
        let Some(parts) = keys::parts(key) else { return Ok(Some(Astray::NoKind)) };
        let Ok(bytes) = unseal(key, value) else {
            return Ok(Some(Astray::Damaged(keys::part(key))));
        };
        let (room, of) = match parts {
            Parts::Store => return Ok(None),
            Parts::Room(_) => {
                return Ok(Room::decode(bytes).err().map(|_| Astray::RoomDamaged));
            }
            Parts::RoomName(room_id) => {
                let Ok(number) = number_or_gone(bytes) else {
                    return Ok(Some(Astray::RoomNumberDamaged));
                };
                let Some(number) = number else { return Ok(None) };
                let room = self.find_room(RoomNum(number));
                let is_it = matches!(room, Ok(Some(room)) if room.room_id == room_id);
                return Ok((!is_it).then_some(Astray::RoomNowhere));
            }
            Parts::OfRoom(room, of) => (room, of),
        };
        let entry = seen.rooms.entry(room);
        let held = match entry {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let record = match self.find_room(room) {
                    // It is named where it stands.
                    Err(StoreError::Corrupt { .. }) => return Ok(None),
                    other => other?,
                };
                place.insert(record.map(|it| (it, self.topology(room))))
            }
        };
        match held {
            Some((record, topology)) => match leads_nowhere((key, of), bytes, (record, topology)) {
                // The page is named where it stands.
                Err(StoreError::Corrupt { .. }) => Ok(None),
                other => other,
            },
            None if self.value(&keys::deleted_room(room))?.is_some() => Ok(None),
            None => Ok(Some(Astray::NoRoom)),
        }
    }
}

/// What a room's record should not be there for, if anything.
fn leads_nowhere(
    (key, of): (&[u8], keys::Of),
    bytes: &[u8],
    (room, topology): (&Room, &Topology<'_, Store>),
) -> Result<Option<Astray>, StoreError> {
    let is_held = |event: EventNum| topology.node(event).map(|it| it.is_some());
    let (is_right, what) = match of {
        keys::Of::Id => match number_or_gone(bytes) {
            Ok(Some(event)) if event >= room.next_event.0 => (false, Astray::EventToCome),
            Ok(Some(event)) => (is_held(EventNum(event))?, Astray::EventLost),
            Ok(None) => return Ok(None),
            Err(_) => (false, Astray::EventNumberDamaged),
        },
        keys::Of::Page(page) => {
            let first = page.saturating_mul(keys::PAGE_EVENTS);
            (first < room.next_event.0, Astray::PageToCome)
        }
        keys::Of::State(state) => (state < room.next_state, Astray::StateToCome),
        keys::Of::Event(event) => {
            (is_held(event)?, Astray::OfNoEvent(keys::part(key).unwrap_or(Part::Note)))
        }
        keys::Of::Both(event, follower) => {
            (is_held(event)? && is_held(follower)?, Astray::NoteOfNoEvent)
        }
        keys::Of::Arrival(arrival, event) => {
            let node = topology.node(event)?;
            (node.is_some_and(|it| it.arrival == arrival), Astray::NoArrival)
        }
        keys::Of::Extremity(arrival, event) => {
            let held = topology.node(event)?.and_then(|it| it.extremity(event));
            let is_it = |it: Extremity| {
                it.arrival == arrival && record::decode_extremity(bytes) == Ok(it.state_after)
            };
            (held.is_some_and(is_it), Astray::NoExtremity)
        }
        keys::Of::Missing(follower) => {
            let edge = match record::decode_missing(bytes) {
                Ok((place, _)) => {
                    let place = usize::try_from(place).unwrap_or(usize::MAX);
                    topology.node(follower)?.and_then(|it| it.prev_events.get(place).copied())
                }
                Err(_) => None,
            };
            (edge == Some(PrevEvent::Missing), Astray::NothingMissing)
        }
    };
    Ok((!is_right).then_some(what))
}
