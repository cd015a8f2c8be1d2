//! Steps 1 to 3: everything that can be checked of an event without its room. Signatures are not
//! checked: they are the homeserver's job, like the authorisation rules, and its verdict is taken.

use std::sync::Arc;

use super::{NewEvent, Refusal, is_room_id, refusal::RefusedEvent};
use crate::{
    pdu::{Event, Pdu, PduError, RoomVersion, Unreadable, id_of_unreadable},
    store::{FoundNum, Store, StoreError, View},
};

/// An event that passed the checks.
pub(super) struct Checked {
    /// The event as it is stored.
    pub(super) event: Event,
    /// The bytes to store.
    pub(super) bytes: Vec<u8>,
    /// The version of the event's room.
    pub(super) version: RoomVersion,
    /// Whether the redacted form is stored, because the content hash did not match.
    pub(super) redacted: bool,
}

/// An event that was checked before its room was locked. The result depends on the version of the
/// room, so the event is checked again if the room has another version under the lock: others may
/// have made the room in between.
pub(super) struct CheckedBeforeLock<'e> {
    pub(super) event: &'e NewEvent<'e>,
    /// What was known of the room before the lock.
    pub(super) known: Known,
    result: Result<Arc<Checked>, RefusedEvent>,
}

impl<'e> CheckedBeforeLock<'e> {
    pub(super) fn new(event: &'e NewEvent<'e>, known: Known) -> Self {
        let result = check(event, known.version()).map(Arc::new);
        Self { event, known, result }
    }

    /// The event, if it passed the checks.
    pub(super) fn checked(&self) -> Option<&Checked> {
        self.result.as_deref().ok()
    }

    /// The result for a room of a known version, or for a new room.
    pub(super) fn for_version(
        &self,
        known_version: Option<&str>,
    ) -> Result<Arc<Checked>, RefusedEvent> {
        let is_current = self.known.version() == known_version
            || matches!(&self.result, Ok(it) if Some(it.version.as_str()) == known_version);
        if is_current {
            return self.result.clone();
        }
        check(self.event, known_version).map(Arc::new)
    }
}

/// What is known of a room before it is locked.
#[derive(Clone)]
pub(super) enum Known {
    /// The store does not hold the room.
    NotHeld,
    /// The room was deleted and may not return.
    Deleted,
    /// The store holds the room, in this version.
    Held(Arc<str>),
}

impl Known {
    /// Looks a room up.
    pub(super) fn look_up(store: &Store, room_id: &str) -> Result<Self, StoreError> {
        let number = match store.find_room_num(room_id)? {
            FoundNum::None => return Ok(Self::NotHeld),
            FoundNum::Deleted => return Ok(Self::Deleted),
            FoundNum::Held(number) => number,
        };
        // The record is gone if the room has been deleted since; the decision that follows finds out.
        let room = store.find_room(number)?;
        Ok(room.map_or(Self::NotHeld, |it| Self::Held(it.room_version.into())))
    }

    /// The version of the room; `None` if the store does not hold it.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Held(version) => Some(version),
            Self::NotHeld | Self::Deleted => None,
        }
    }
}

fn check(event: &NewEvent<'_>, known_version: Option<&str>) -> Result<Checked, RefusedEvent> {
    let version = version(event, known_version).map_err(RefusedEvent::without_id)?;
    let pdu = match Pdu::parse(event.pdu, version) {
        Ok(pdu) => pdu,
        Err(why) => return unreadable(event, version, why),
    };
    let event_id = pdu.event_id().as_str();
    if !event.event_id.is_empty() && event_id != event.event_id {
        let mismatch = Refusal::EventIdMismatch {
            expected: event.event_id.to_owned(),
            found: event_id.to_owned(),
        };
        return Err(RefusedEvent::of(event_id, mismatch));
    }
    if *pdu.room_id() != *event.room_id {
        let mismatch = Refusal::RoomMismatch {
            expected: event.room_id.to_owned(),
            found: pdu.room_id().as_str().to_owned(),
        };
        return Err(RefusedEvent::of(event_id, mismatch));
    }
    if pdu.content_hash_matches() {
        return Ok(Checked::read(pdu, false));
    }
    match pdu.redacted() {
        Ok(pdu) => Ok(Checked::read(pdu, true)),
        Err(why) => unreadable(event, version, why),
    }
}

impl Checked {
    fn read(pdu: Pdu, redacted: bool) -> Self {
        let bytes = pdu.bytes_as_received().to_vec();
        let version = pdu.room_version();
        Self { event: Event::Readable(Box::new(pdu)), bytes, version, redacted }
    }
}

/// Checks an event that breaks the format of its room version. It is stored if it is a JSON object
/// and its id is known; where the bytes do not contain the id, the caller has to give it.
fn unreadable(
    event: &NewEvent<'_>,
    version: RoomVersion,
    why: PduError,
) -> Result<Checked, RefusedEvent> {
    let own_id = id_of_unreadable(event.pdu, version);
    let contains_id = version.rules().event_format.require_event_id;
    let event_id = match (event.event_id, own_id) {
        ("", Some(own_id)) if contains_id => own_id.as_str().to_owned(),
        ("", own_id) => {
            let event_id = own_id.map(|it| it.as_str().to_owned());
            return Err(RefusedEvent { event_id, refusal: Refusal::Unreadable(why) });
        }
        (given, Some(own_id)) if own_id != *given => {
            let expected = given.to_owned();
            let found = own_id.as_str().to_owned();
            let mismatch = Refusal::EventIdMismatch { expected, found };
            return Err(RefusedEvent::of(own_id.as_str(), mismatch));
        }
        (given, _) => given.to_owned(),
    };
    let stored = Unreadable::read(event.pdu, &event_id, why)
        .map_err(|why| RefusedEvent::without_id(Refusal::Pdu(why)))?;
    if let Some(found) = stored.room_id(version).filter(|it| it != event.room_id) {
        let expected = event.room_id.to_owned();
        return Err(RefusedEvent::of(&event_id, Refusal::RoomMismatch { expected, found }));
    }
    let bytes = stored.bytes_as_received().to_vec();
    Ok(Checked { event: Event::Unreadable(stored), bytes, version, redacted: false })
}

fn version(event: &NewEvent<'_>, known: Option<&str>) -> Result<RoomVersion, Refusal> {
    let room_id = event.room_id;
    if !is_room_id(room_id) {
        return Err(Refusal::RoomIdInvalid);
    }
    let given = Some(event.room_version).filter(|it| !it.is_empty());
    let name = match (known, given) {
        (Some(held), Some(given)) if held != given => {
            return Err(Refusal::RoomVersionMismatch {
                held: held.to_owned(),
                given: given.to_owned(),
            });
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Err(Refusal::RoomVersionMissing),
    };
    RoomVersion::parse(name).map_err(|_| Refusal::RoomVersionUnknown(name.to_owned()))
}
