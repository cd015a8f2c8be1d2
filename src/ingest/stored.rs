//! Reading events back that are stored.

use crate::{
    pdu::{Event, Pdu, RoomVersion},
    store::{Edit, EventNum, StoreError, View},
};

/// Reads a stored event, readable or not.
pub(super) fn read_stored(
    edit: &Edit<'_>,
    event: EventNum,
    version: RoomVersion,
) -> Result<Event, StoreError> {
    let body = edit.body(edit.room_num(), event)?;
    Event::read(&body.pdu, version, &body.event_id)
        .map_err(|_| StoreError::corrupt("body", body.event_id.as_bytes()))
}

/// Reads a stored event; `None` if it is an unreadable one.
pub(super) fn parse_stored(
    edit: &Edit<'_>,
    event: EventNum,
    version: RoomVersion,
) -> Result<Option<Pdu>, StoreError> {
    let body = edit.body(edit.room_num(), event)?;
    Ok(Pdu::parse(&body.pdu, version).ok())
}

/// The parsed version of a room. Fails only if a build that knew more versions made the room.
pub(super) fn version_of(edit: &Edit<'_>) -> Result<RoomVersion, StoreError> {
    RoomVersion::parse(&edit.room.room_version).map_err(|_| StoreError::version_unknown(&edit.room))
}
