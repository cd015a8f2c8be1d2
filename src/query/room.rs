//! What is known of a room as a whole, and which rooms there are. For sister services.

use super::{Asker, QueryError, admit, unknown::state_needed};
use crate::{
    context::Context,
    store::{RoomNum, StoreError, View},
};

/// Most extremities named, of either kind: with ids of 1,020 bytes they are 2 MiB.
const MAX_FORWARD: usize = 1_000;
const MAX_BACKWARD: usize = 1_000;
/// Most rooms of a page, and how many when the asker does not say.
const MAX_PAGE: u32 = 1_000;
const DEFAULT_PAGE: u32 = 100;

/// A room.
#[derive(Clone, Debug)]
pub struct RoomSummary {
    /// Its id.
    pub room_id: String,
    /// Its version.
    pub room_version: String,
    /// Events that nothing accepted follows, the one that arrived last first: at most a thousand.
    pub forward_extremities: Vec<String>,
    /// How many there are.
    pub forward_extremity_count: u64,
    /// Events that are referenced but not held.
    pub backward_extremities: Vec<String>,
    /// Events held, outliers included.
    pub event_count: u64,
    /// Events that ever came, those included that were purged.
    pub appended_count: u64,
    /// Outliers among them.
    pub outlier_count: u64,
    /// Rejected events among them.
    pub rejected_count: u64,
    /// Soft-failed events among them.
    pub soft_failed_count: u64,
    /// Events among them that cannot be read.
    pub unreadable_count: u64,
    /// Entries of the current state; none if it is not known.
    pub state_count: Option<u32>,
    /// While it is not known, some events whose state has to come for it to be known.
    pub state_needed: Vec<String>,
}

/// A page of rooms.
#[derive(Clone, Debug)]
pub struct RoomList {
    /// Their ids, in the order in which the rooms came.
    pub room_ids: Vec<String>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A room's summary.
///
/// # Errors
/// When there is no such room, or the store fails.
pub fn get_room(cx: &Context, room_id: &str) -> Result<RoomSummary, QueryError> {
    let store = &cx.store;
    let found = admit(store, room_id, &Asker::Sister)?;
    let state_needed = state_needed(store, found.number, &found.room)?;
    let (number, room) = (found.number, found.room);
    let newest = store.extremities(number, MAX_FORWARD)?;
    let ids = newest.into_iter().map(|it| Ok(store.body(number, it.event)?.event_id));
    let forward_extremities = ids.collect::<Result<_, StoreError>>()?;
    let facts = room.current_state.map(|it| store.state_facts(number, it)).transpose()?;
    Ok(RoomSummary {
        forward_extremities,
        forward_extremity_count: room.forward_extremities,
        backward_extremities: store.backward_extremities(number, MAX_BACKWARD)?,
        event_count: u64::from(room.next_event.0).saturating_sub(room.purged),
        appended_count: room.next_event.0.into(),
        outlier_count: room.outliers,
        rejected_count: room.rejected,
        soft_failed_count: room.soft_failed,
        unreadable_count: room.unreadable,
        state_count: facts.map(|it| it.events),
        state_needed,
        room_id: room.room_id,
        room_version: room.room_version,
    })
}

/// A page of rooms.
///
/// # Errors
/// When the token is not ours, or the store fails.
pub fn list_rooms(
    cx: &Context,
    (page_size, page_token): (u32, &str),
) -> Result<RoomList, QueryError> {
    let after = match page_token {
        "" => None,
        token => Some(RoomNum(token.parse().map_err(|_| QueryError::PageTokenInvalid)?)),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let rooms = cx.store.rooms(after, size)?;
    let last = rooms.last().filter(|_| rooms.len() == size);
    let next_page_token = last.map(|(number, _)| number.0.to_string()).unwrap_or_default();
    Ok(RoomList {
        room_ids: rooms.into_iter().map(|(_, it)| it.room_id).collect(),
        next_page_token,
    })
}
