//! What can be checked of an event without looking at its room. Not its signatures: they are the
//! homeserver's business, like the authorisation rules, and its verdict stands.

use super::{NewEvent, Refusal};
use crate::pdu::{Event, Pdu, PduError, RoomVersion, Unreadable, id_of_unreadable};

/// An event that passed, in the form in which it is to be kept.
pub(super) struct Checked {
    /// The event.
    pub(super) event: Event,
    /// The bytes to keep.
    pub(super) bytes: Vec<u8>,
    /// The version of its room.
    pub(super) version: RoomVersion,
    /// Whether the redacted form is kept because the content hash did not match.
    pub(super) redacted: bool,
}

/// A refusal, with the event's id if that could be worked out.
pub(super) type Refused = (Option<String>, Refusal);

/// Checks an event for a room of a known version, or for a new one.
pub(super) fn check(event: &NewEvent<'_>, known_version: Option<&str>) -> Result<Checked, Refused> {
    let version = version(event, known_version).map_err(|refusal| (None, refusal))?;
    let pdu = match Pdu::parse(event.pdu, version) {
        Ok(pdu) => pdu,
        Err(why) => return unreadable(event, version, why),
    };
    let event_id = pdu.event_id().as_str().to_owned();
    let refused = |refusal| Err((Some(event_id.clone()), refusal));
    if !event.event_id.is_empty() && *pdu.event_id() != *event.event_id {
        return refused(Refusal::EventIdMismatch {
            expected: event.event_id.to_owned(),
            found: event_id.clone(),
        });
    }
    if *pdu.room_id() != *event.room_id {
        return refused(Refusal::RoomMismatch {
            expected: event.room_id.to_owned(),
            found: pdu.room_id().as_str().to_owned(),
        });
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
        let (bytes, version) = (pdu.bytes_as_received().to_vec(), pdu.room_version());
        Self { event: Event::Readable(Box::new(pdu)), bytes, version, redacted }
    }
}

/// Checks an event that the homeserver holds and that cannot be read here. It is kept if it is a
/// JSON object and its id is known, by the caller's word where the bytes do not say it.
fn unreadable(
    event: &NewEvent<'_>,
    version: RoomVersion,
    why: PduError,
) -> Result<Checked, Refused> {
    let own_id = id_of_unreadable(event.pdu, version);
    let says_its_id = version.rules().event_format.require_event_id;
    let event_id = match (event.event_id, own_id) {
        ("", Some(own_id)) if says_its_id => own_id.as_str().to_owned(),
        ("", own_id) => {
            let event_id = own_id.map(|it| it.as_str().to_owned());
            return Err((event_id, Refusal::Unreadable(why)));
        }
        (given, Some(own_id)) if own_id != *given => {
            let (expected, found) = (given.to_owned(), own_id.as_str().to_owned());
            return Err((Some(found.clone()), Refusal::EventIdMismatch { expected, found }));
        }
        (given, _) => given.to_owned(),
    };
    let held = Unreadable::read(event.pdu, &event_id, why);
    let held = held.map_err(|why| (None, Refusal::Pdu(why)))?;
    if let Some(found) = held.room_id(version).filter(|it| it != event.room_id) {
        let expected = event.room_id.to_owned();
        return Err((Some(event_id), Refusal::RoomMismatch { expected, found }));
    }
    let bytes = held.bytes_as_received().to_vec();
    Ok(Checked { event: Event::Unreadable(held), bytes, version, redacted: false })
}

fn version(event: &NewEvent<'_>, known: Option<&str>) -> Result<RoomVersion, Refusal> {
    let room_id = event.room_id;
    if !room_id.starts_with('!') || room_id.len() > 255 {
        return Err(Refusal::RoomIdInvalid);
    }
    let given = Some(event.room_version).filter(|it| !it.is_empty());
    let name = match (known, given) {
        (Some(held), Some(given)) if held != given => {
            let (held, given) = (held.to_owned(), given.to_owned());
            return Err(Refusal::RoomVersionMismatch { held, given });
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Err(Refusal::RoomVersionMissing),
    };
    RoomVersion::parse(name).map_err(|_| Refusal::RoomVersionUnknown(name.to_owned()))
}
