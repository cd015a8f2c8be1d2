//! What is known of a room as a whole, and the list of all rooms. For internal callers.

use super::{
    QueryError, Question, admission::find_internal, paging::PageRequest, state_needed::state_needed,
};
use crate::{
    context::Context,
    deadline::Deadline,
    store::{RoomNum, StoreError, View},
};

/// The most forward extremities, and the most backward extremities, that are named. With ids of
/// 1,020 bytes they take 2 MiB.
const MAX_EXTREMITIES: usize = 1_000;
/// The most rooms of a page.
const MAX_PAGE: u32 = 1_000;
/// The rooms of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 100;

/// What is known of a room as a whole.
#[derive(Clone, Debug)]
pub struct RoomSummary {
    /// The id of the room.
    pub room_id: String,
    /// The version of the room.
    pub room_version: String,
    /// Events that no accepted event follows, the one that arrived last first; at most 1,000.
    pub forward_extremities: Vec<String>,
    /// The number of all forward extremities.
    pub forward_extremity_count: u64,
    /// Ids of events that are referenced but not held; at most 1,000.
    pub backward_extremities: Vec<String>,
    /// The number of events that are held, outliers included.
    pub event_count: u64,
    /// The number of events that were ever appended, purged ones included.
    pub appended_count: u64,
    /// The number of outliers among the events that are held.
    pub outlier_count: u64,
    /// The number of rejected events among the events that are held.
    pub rejected_count: u64,
    /// The number of soft-failed events among the events that are held.
    pub soft_failed_count: u64,
    /// The number of unreadable events among the events that are held.
    pub unreadable_count: u64,
    /// The number of entries of the current state; `None` if it is not known.
    pub state_count: Option<u32>,
    /// While the current state is not known: some of the events whose state is needed for it.
    pub state_needed: Vec<String>,
}

/// A page of rooms.
#[derive(Clone, Debug)]
pub struct RoomList {
    /// The ids of the rooms, in the order in which the rooms were created here.
    pub room_ids: Vec<String>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the summary of a room.
#[derive(Clone, Debug)]
pub struct GetRoom {
    /// The id of the room.
    pub room_id: String,
}

impl Question for GetRoom {
    type Answer = RoomSummary;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<RoomSummary, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let state_needed = state_needed(store, room.number, &room.record)?;
        let number = room.number;
        let record = room.record;
        let newest = store.extremities(number, MAX_EXTREMITIES)?;
        let ids = newest.into_iter().map(|it| Ok(store.body(number, it.event)?.event_id));
        let forward_extremities = ids.collect::<Result<_, StoreError>>()?;
        let facts = record.current_state.map(|it| store.state_facts(number, it)).transpose()?;
        Ok(RoomSummary {
            forward_extremities,
            forward_extremity_count: record.forward_extremities,
            backward_extremities: store.backward_extremities(number, MAX_EXTREMITIES)?,
            event_count: u64::from(record.next_event.0).saturating_sub(record.purged),
            appended_count: record.next_event.0.into(),
            outlier_count: record.outliers,
            rejected_count: record.rejected,
            soft_failed_count: record.soft_failed,
            unreadable_count: record.unreadable,
            state_count: facts.map(|it| it.events),
            state_needed,
            room_id: record.room_id,
            room_version: record.room_version,
        })
    }
}

/// Asks for the rooms that are held.
#[derive(Clone, Debug)]
pub struct ListRooms {
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListRooms {
    type Answer = RoomList;

    fn room_id(&self) -> Option<&str> {
        None
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<RoomList, QueryError> {
        let after = match self.page.token.as_str() {
            "" => None,
            token => Some(RoomNum(token.parse().map_err(|_| QueryError::PageTokenInvalid)?)),
        };
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let rooms = cx.store.rooms(after, size)?;
        let last = rooms.last().filter(|_| rooms.len() == size);
        let next_page_token = last.map(|(number, _)| number.0.to_string()).unwrap_or_default();
        let room_ids = rooms.into_iter().map(|(_, room)| room.room_id).collect();
        Ok(RoomList { room_ids, next_page_token })
    }
}
