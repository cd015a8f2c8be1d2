//! Events that are held, read again.

use crate::{
    pdu::{Pdu, RoomVersion},
    store::{Edit, EventNum, StoreError, View},
};

/// Parses an event that is held. Nothing if its bytes are not what an event of this room can be.
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
