//! Events by id, and all events of a room in their order of arrival. For sister services.

use bytes::Bytes;

use super::{
    Asker, Found, QueryError, admit,
    pages::{Space, rest_of, token},
    withheld::{IdList, id_page_size},
};
use crate::{
    context::Context,
    ingest::Verdict,
    store::{Body, EventNum, GivenEvent, Store, StoreError, View},
};

/// Most events asked for by id.
const MAX_IDS: usize = 1_000;
/// The most bytes that an event id has: 255 characters.
const MAX_ID_BYTES: usize = 1_020;
/// Most events of a page, and how many when the asker does not say.
const MAX_PAGE: u32 = 1_000;
const DEFAULT_PAGE: u32 = 100;
/// Most bytes of ids of the state that came with an event which are answered with the event.
const MAX_STATE_BYTES: usize = 256 << 10;

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
    /// The ids of the state that came with it: as many of the first as have room.
    pub state_after: Vec<String>,
    /// Where the rest of them begin, for [`list_state_after`]; empty if there is no rest.
    pub state_after_token: String,
    /// Whether it breaks the format of its room version.
    pub unreadable: bool,
    /// Whether it is placed in the graph and the state after it is not known.
    pub state_unknown: bool,
}

/// Events by id.
#[derive(Clone, Debug, Default)]
pub struct RoomEvents {
    /// Those held, in the order asked.
    pub events: Vec<RoomEvent>,
    /// Those not held in this room.
    pub missing_event_ids: Vec<String>,
    /// How many of the ids were looked at, from the first on; the others are to be asked for again.
    pub looked_at: usize,
}

/// A page of a room's events.
#[derive(Clone, Debug, Default)]
pub struct EventList {
    /// In order of arrival.
    pub events: Vec<RoomEvent>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Events by id: as many of the first ones as there is room for.
///
/// # Errors
/// When there is no such room, when an id is longer than ids are, or the store fails.
pub fn batch_get_events(
    cx: &Context,
    room_id: &str,
    event_ids: &[String],
) -> Result<RoomEvents, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let (mut answer, mut space) = (RoomEvents::default(), Space::default());
    for event_id in event_ids.iter().take(MAX_IDS) {
        if event_id.len() > MAX_ID_BYTES {
            return Err(QueryError::EventIdInvalid);
        }
        match cx.store.event_num(found.number, event_id)? {
            Some(event) => {
                let event = read(&cx.store, &found, event)?;
                if !space.take(event.bytes()) {
                    break;
                }
                answer.events.push(event);
            }
            None => {
                if !space.take(event_id.len()) {
                    break;
                }
                answer.missing_event_ids.push(event_id.clone());
            }
        }
        answer.looked_at += 1;
    }
    Ok(answer)
}

/// A page of a room's events, everything included; only those up to an append number, if that is not
/// zero.
///
/// # Errors
/// When there is no such room, when the token is not ours, or the store fails.
pub fn list_events(
    cx: &Context,
    (room_id, max_append_number): (&str, u64),
    (page_size, page_token): (u32, &str),
) -> Result<EventList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let after = match rest_of(page_token, &found)? {
        None => None,
        Some(rest) => Some(parse_place(rest).ok_or(QueryError::PageTokenInvalid)?),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let listed = cx.store.by_arrival((found.number, &found.room), after, size)?;
    let (mut answer, mut space) = (EventList::default(), Space::default());
    let (mut looked_at, mut last) = (0, None);
    for (arrival, event) in &listed {
        if max_append_number == 0 || u64::from(event.0) < max_append_number {
            let event = read(&cx.store, &found, *event)?;
            if !space.take(event.bytes()) {
                break;
            }
            answer.events.push(event);
        }
        last = Some((*arrival, *event));
        looked_at += 1;
    }
    if let Some((arrival, event)) = last
        && (looked_at == size || looked_at < listed.len())
    {
        answer.next_page_token = token(&found, format_args!("{arrival}.{}", event.0));
    }
    Ok(answer)
}

/// The ids of the state that came with an event, a page of them.
///
/// # Errors
/// When there is no such room or event, when the token is not ours, or the store fails.
pub fn list_state_after(
    cx: &Context,
    room_id: &str,
    event_id: &str,
    page_size: u32,
    page_token: &str,
) -> Result<IdList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let unknown = || QueryError::EventUnknown(event_id.to_owned());
    let event = cx.store.event_num(found.number, event_id)?.ok_or_else(unknown)?;
    let from = match rest_of(page_token, &found)? {
        None => 0,
        Some(rest) => rest.parse().map_err(|_| QueryError::PageTokenInvalid)?,
    };
    let mut space = Space::default();
    let size = id_page_size(page_size);
    let (ids, next_page_token) = state_after(&cx.store, &found, (event, from), |nth, id| {
        nth < size && space.take(id.len())
    })?;
    Ok(IdList { ids, next_page_token })
}

fn parse_place(rest: &str) -> Option<(i64, EventNum)> {
    let (arrival, event) = rest.split_once('.')?;
    Some((arrival.parse().ok()?, EventNum(event.parse().ok()?)))
}

fn read(store: &Store, found: &Found, event: EventNum) -> Result<RoomEvent, StoreError> {
    let Body { event_id, pdu } = store.body(found.number, event)?;
    let node = store.topology(found.number).node(event)?;
    let node = node.ok_or_else(|| StoreError::missing("event", event_id.as_bytes()))?;
    let mut bytes = 0;
    let (state_after, state_after_token) = state_after(store, found, (event, 0), |_, id| {
        bytes += id.len();
        bytes <= MAX_STATE_BYTES
    })?;
    Ok(RoomEvent {
        state_after,
        state_after_token,
        event_id,
        pdu,
        arrival: node.arrival,
        verdict: Verdict {
            outlier: node.flags.outlier,
            rejected: node.flags.rejected,
            soft_failed: node.flags.soft_failed,
        },
        redacted: node.flags.redacted,
        unreadable: node.flags.unreadable,
        state_unknown: !node.flags.outlier && node.state_after.is_none(),
    })
}

/// The ids of the state that came with an event, from one of them on, until the first that does not
/// fit; and a token for going on there.
fn state_after(
    store: &Store,
    found: &Found,
    (event, from): (EventNum, usize),
    mut fits: impl FnMut(usize, &str) -> bool,
) -> Result<(Vec<String>, String), StoreError> {
    let given = store.given_state(found.number, event)?.unwrap_or_default();
    let mut ids = Vec::new();
    for it in given.into_iter().skip(from) {
        let event_id = match it {
            GivenEvent::Held(event) => store.body(found.number, event)?.event_id,
            GivenEvent::Named(event_id) => event_id,
        };
        if !fits(ids.len(), &event_id) {
            let next = token(found, from.saturating_add(ids.len()));
            return Ok((ids, next));
        }
        ids.push(event_id);
    }
    Ok((ids, String::new()))
}

impl RoomEvent {
    /// What it takes of an answer.
    fn bytes(&self) -> usize {
        // Each id has a tag and a length.
        let ids = self.state_after.iter().map(|it| it.len() + 4).sum::<usize>();
        ids + self.event_id.len() + self.pdu.len() + self.state_after_token.len()
    }
}
