//! Calls about whole rooms: digests, flags, removal, and whether they are served.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Code;

use super::{History, HistoryError, message};
use crate::{
    digest::{Parts, RoomParts},
    proto::v1::{
        DeleteRoomRequest, EventFlags, GetRoomDigestRequest, GetRoomRequest, ListEventFlagsRequest,
        ListRoomsNotServedRequest, ListRoomsRequest, NotServedReason, RemoveEventsRequest,
        SetRoomsServedRequest,
    },
};

/// The most events on one page.
const PAGE_SIZE: u32 = 10_000;
/// The most rooms on one page.
const ROOMS_PAGE_SIZE: u32 = 1_000;

/// Events to take out of the graph.
#[derive(Clone, Debug)]
pub(crate) struct TakeOut {
    /// The events. At most 50,000.
    pub(crate) event_ids: Vec<String>,
    /// Whether all of them become outliers. Otherwise only state events do.
    pub(crate) keep_as_outliers: bool,
}

/// A room that is not served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotServed<'a> {
    /// The room.
    pub(crate) room_id: &'a str,
    /// Why it is not served. Unspecified to serve it.
    pub(crate) reason: NotServedReason,
}

/// Reads the digest of a room. A room that is not held has no events.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn digest(
    history: &History,
    room_id: &str,
    prefix_bits: u32,
) -> Result<Parts, HistoryError> {
    let request = GetRoomDigestRequest { room_id: room_id.to_owned(), prefix_bits };
    match message(history.history.clone().get_room_digest(request).await) {
        Ok(response) => Ok(Parts(response.parts)),
        Err(error) if error.code == Code::NotFound => Ok(Parts::empty(prefix_bits)),
        Err(error) => Err(error),
    }
}

/// The number of events of a room, with outliers. A room that is not held has none.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn event_count(history: &History, room_id: &str) -> Result<u64, HistoryError> {
    let request = GetRoomRequest { room_id: room_id.to_owned() };
    match message(history.history.clone().get_room(request).await) {
        Ok(room) => Ok(room.event_count),
        Err(error) if error.code == Code::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Lists the events of some parts of a room. A room that is not held has no events.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn list(
    history: &History,
    room: RoomParts<'_>,
    prefixes: &[u32],
) -> Result<BTreeMap<String, EventFlags>, HistoryError> {
    let RoomParts { room_id, prefix_bits } = room;
    let mut client = history.history.clone();
    let mut events = BTreeMap::new();
    for prefix in prefixes {
        let mut page_token = String::new();
        loop {
            let request = ListEventFlagsRequest {
                room_id: room_id.to_owned(),
                prefix_bits,
                prefix: *prefix,
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = match message(client.list_event_flags(request).await) {
                Err(error) if error.code == Code::NotFound => return Ok(events),
                page => page?,
            };
            events.extend(page.events.into_iter().map(|it| (it.event_id.clone(), it)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    Ok(events)
}

/// Takes events out of the graph. Returns the number of events that were removed or became outliers.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn take_out(
    history: &History,
    room_id: &str,
    events: TakeOut,
) -> Result<u64, HistoryError> {
    let TakeOut { event_ids, keep_as_outliers } = events;
    if event_ids.is_empty() {
        return Ok(0);
    }
    let request = RemoveEventsRequest { room_id: room_id.to_owned(), event_ids, keep_as_outliers };
    let mut progress = match message(history.ingest.clone().remove_events(request).await) {
        Err(error) if error.code == Code::NotFound => return Ok(0),
        progress => progress?,
    };
    let mut count = 0;
    loop {
        match progress.message().await {
            Ok(Some(it)) => count = it.removed_event_count.saturating_add(it.outlier_count),
            Ok(None) => return Ok(count),
            Err(status) if status.code() == Code::NotFound => return Ok(count),
            Err(status) => return Err(status.into()),
        }
    }
}

/// Deletes a room, so that it may be appended again. Returns when its records are removed. A room that
/// is not held stays so.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn delete(history: &History, room_id: &str) -> Result<(), HistoryError> {
    let request = DeleteRoomRequest { room_id: room_id.to_owned(), may_return: true };
    let mut progress = match message(history.ingest.clone().delete_room(request).await) {
        Err(error) if error.code == Code::NotFound => return Ok(()),
        progress => progress?,
    };
    loop {
        match progress.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::NotFound => return Ok(()),
            Err(status) => return Err(status.into()),
        }
    }
}

/// Decides whether a room is served to other servers.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn set_not_served(
    history: &History,
    room: NotServed<'_>,
) -> Result<(), HistoryError> {
    let request = SetRoomsServedRequest {
        room_ids: vec![room.room_id.to_owned()],
        not_served_reason: room.reason.into(),
    };
    message(history.ingest.clone().set_rooms_served(request).await)?;
    Ok(())
}

/// Lists the rooms that are being copied.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn importing(history: &History) -> Result<BTreeSet<String>, HistoryError> {
    let mut rooms = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListRoomsNotServedRequest { page_size: PAGE_SIZE, page_token };
        let page = message(history.admin.clone().list_rooms_not_served(request).await)?;
        let of_import = |it: &crate::proto::v1::RoomNotServed| {
            it.not_served_reason() == NotServedReason::Importing
        };
        rooms.extend(page.rooms.into_iter().filter(of_import).map(|it| it.room_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(rooms);
        }
    }
}

/// Some of the rooms that are held.
#[derive(Clone, Debug)]
pub(crate) struct RoomsPage {
    /// The rooms.
    pub(crate) room_ids: Vec<String>,
    /// The token of the next page; empty on the last page.
    pub(crate) next_page_token: String,
}

/// Lists rooms that are held.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn held(history: &History, page_token: String) -> Result<RoomsPage, HistoryError> {
    let request = ListRoomsRequest { page_size: ROOMS_PAGE_SIZE, page_token };
    let page = message(history.history.clone().list_rooms(request).await)?;
    Ok(RoomsPage { room_ids: page.room_ids, next_page_token: page.next_page_token })
}
