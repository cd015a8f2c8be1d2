//! Events that are held, read again.

use crate::{
    pdu::{Event, Pdu, RoomVersion},
    store::{Edit, EventNum, StoreError, View},
};

/// Reads an event that is held, one that is unreadable too.
pub(super) fn read_held(
    edit: &Edit<'_>,
    event: EventNum,
    version: RoomVersion,
) -> Result<Event, StoreError> {
    let body = edit.body(edit.room_num(), event)?;
    Event::read(&body.pdu, version, &body.event_id)
        .map_err(|_| StoreError::corrupt("body", body.event_id.as_bytes()))
}

/// Reads an event that is held. Nothing if it is unreadable.
pub(super) fn parse_held(
    edit: &Edit<'_>,
    event: EventNum,
    version: RoomVersion,
) -> Result<Option<Pdu>, StoreError> {
    let body = edit.body(edit.room_num(), event)?;
    Ok(Pdu::parse(&body.pdu, version).ok())
}

/// The version of the room, parsed. A room is only made with a version that is known.
pub(super) fn version_of(edit: &Edit<'_>) -> Result<RoomVersion, StoreError> {
    RoomVersion::parse(&edit.room.room_version).map_err(|_| StoreError::version_unknown(&edit.room))
}
