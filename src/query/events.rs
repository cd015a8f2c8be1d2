//! Events by id, and all events of a room in their order of arrival. For sister services.

use bytes::Bytes;

use super::{Asker, Found, QueryError, admit};
use crate::{
    context::Context,
    ingest::Verdict,
    store::{Body, EventNum, GivenEvent, Store, StoreError, View},
};

/// Most events asked for by id.
const MAX_IDS: usize = 1_000;
/// Most events of a page, and how many when the asker does not say.
const MAX_PAGE: u32 = 1_000;
const DEFAULT_PAGE: u32 = 100;
/// A page ends when its PDUs have this many bytes, so that no answer outgrows a gRPC message.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// An event with what the graph knows of it.
#[derive(Clone, Debug)]
pub struct RoomEvent {
    /// Its id.
    pub event_id: String,
    /// The PDU as it came, without `unsigned`.
    pub pdu: Bytes,
    /// Its place in the order of arrival.
    pub arrival: i64,
    /// The homeserver's verdict.
    pub verdict: Verdict,
    /// Whether a valid redaction of it is held.
    pub redacted: bool,
    /// The ids of the state that came with it.
    pub state_after: Vec<String>,
}

/// Events by id.
#[derive(Clone, Debug, Default)]
pub struct RoomEvents {
    /// Those held, in the order asked.
    pub events: Vec<RoomEvent>,
    /// Those not held in this room.
    pub missing_event_ids: Vec<String>,
}

/// A page of a room's events.
#[derive(Clone, Debug, Default)]
pub struct EventList {
    /// In order of arrival.
    pub events: Vec<RoomEvent>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Events by id.
///
/// # Errors
/// When there is no such room, or the store fails.
pub fn batch_get_events(
    cx: &Context,
    room_id: &str,
    event_ids: &[String],
) -> Result<RoomEvents, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let mut answer = RoomEvents::default();
    let mut bytes = 0;
    for event_id in event_ids.iter().take(MAX_IDS) {
        match cx.store.event_num(found.number, event_id)? {
            // What does not fit is for the asker to ask again, by the ids it did not get.
            Some(_) if bytes >= MAX_PAGE_BYTES => break,
            Some(event) => {
                let event = read(&cx.store, &found, event)?;
                bytes += event.pdu.len();
                answer.events.push(event);
            }
            None => answer.missing_event_ids.push(event_id.clone()),
        }
    }
    Ok(answer)
}

/// A page of a room's events, everything included; only of the first so many that came, if that is
/// not zero.
///
/// # Errors
/// When there is no such room, when the token is not ours, or the store fails.
pub fn list_events(
    cx: &Context,
    (room_id, of_first): (&str, u64),
    (page_size, page_token): (u32, &str),
) -> Result<EventList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let after = match page_token {
        "" => None,
        token => Some(parse_token(token).ok_or(QueryError::PageTokenInvalid)?),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let listed = cx.store.by_arrival((found.number, &found.room), after, size)?;
    let mut answer = EventList::default();
    let (mut bytes, mut looked_at, mut last) = (0, 0, None);
    for (arrival, event) in &listed {
        if bytes >= MAX_PAGE_BYTES {
            break;
        }
        last = Some((*arrival, *event));
        looked_at += 1;
        if of_first != 0 && u64::from(event.0) >= of_first {
            continue;
        }
        let event = read(&cx.store, &found, *event)?;
        bytes += event.pdu.len();
        answer.events.push(event);
    }
    if let Some((arrival, event)) = last
        && (looked_at == size || looked_at < listed.len())
    {
        answer.next_page_token = format!("{arrival}.{}", event.0);
    }
    Ok(answer)
}

fn parse_token(token: &str) -> Option<(i64, EventNum)> {
    let (arrival, event) = token.split_once('.')?;
    Some((arrival.parse().ok()?, EventNum(event.parse().ok()?)))
}

fn read(store: &Store, found: &Found, event: EventNum) -> Result<RoomEvent, StoreError> {
    let Body { event_id, pdu } = store.body(found.number, event)?;
    let node = store.topology(found.number).node(event)?;
    let node = node.ok_or_else(|| StoreError::missing("event", event_id.as_bytes()))?;
    let given = store.given_state(found.number, event)?.unwrap_or_default();
    let state_after = given.into_iter().map(|it| match it {
        GivenEvent::Held(event) => Ok(store.body(found.number, event)?.event_id),
        GivenEvent::Named(event_id) => Ok(event_id),
    });
    Ok(RoomEvent {
        state_after: state_after.collect::<Result<_, StoreError>>()?,
        event_id,
        pdu,
        arrival: node.arrival,
        verdict: Verdict {
            outlier: node.flags.outlier,
            rejected: node.flags.rejected,
            soft_failed: node.flags.soft_failed,
        },
        redacted: node.flags.redacted,
    })
}
