//! What can be checked of an event without looking at its room. Not its signatures: they are the
//! homeserver's business, like the authorisation rules, and its verdict stands.

use super::{NewEvent, Refusal};
use crate::pdu::{Pdu, RoomVersion};

/// An event that passed, in the form in which it is to be kept.
pub(super) struct Checked {
    /// The event.
    pub(super) pdu: Pdu,
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
    let pdu = Pdu::parse(event.pdu, version).map_err(|error| (None, error.into()))?;
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
        let bytes = pdu.bytes_as_received().to_vec();
        return Ok(Checked { pdu, bytes, version, redacted: false });
    }
    match pdu.redacted() {
        Ok(pdu) => {
            let bytes = pdu.bytes_as_received().to_vec();
            Ok(Checked { pdu, bytes, version, redacted: true })
        }
        Err(error) => refused(error.into()),
    }
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
