//! Events with everything known about them: by id, or all of a room in order of arrival. For
//! internal callers.

use bytes::Bytes;

use super::{
    QueryError, Question,
    admission::{FoundRoom, find_internal, is_redacted_by_ban},
    paging::{AnswerSpace, IdList, PageRequest, token},
    servable::short_ids,
};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{self, Verdict},
    store::{Arrival, Body, EventNum, GivenEvent, Store, StoreError, View},
};

/// The most event ids that are looked at for one answer.
const MAX_IDS: usize = 1_000;
/// The most bytes of an event id: 255 characters of four bytes.
pub(super) const MAX_ID_BYTES: usize = 1_020;
/// The most events of a page.
const MAX_PAGE: u32 = 1_000;
/// The events of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 100;
/// The most events that are read ahead for one answer.
const MAX_READ_AHEAD: usize = 256;
/// The most bytes of ids of the given state that are answered along with an event.
const MAX_STATE_BYTES: usize = 256 << 10;
/// The most ids of the given state on a page of their own.
const MAX_STATE_PAGE: u32 = 10_000;
/// The ids of such a page when the caller does not say.
const DEFAULT_STATE_PAGE: u32 = 1_000;

/// An event with everything known about it.
#[derive(Clone, Debug)]
pub struct RoomEvent {
    /// The id of the event.
    pub event_id: String,
    /// The PDU as it was received, without `unsigned`.
    pub pdu: Bytes,
    /// The position in the homeserver's order of arrival.
    pub arrival: i64,
    /// The verdict of the homeserver on it.
    pub verdict: Verdict,
    /// Whether the event is only stored, without a place in the graph.
    pub outlier: bool,
    /// Whether a valid redaction of it is held, or a ban redacts it.
    pub redacted: bool,
    /// The ids of the state that was given with it: the first ones, up to 256 KiB.
    pub state_after: Vec<String>,
    /// The token to read the rest of them with [`ListStateAfter`]; empty if there is no rest.
    pub state_after_token: String,
    /// Whether it breaks the format of its room version.
    pub unreadable: bool,
    /// Whether it is placed in the graph while the state after it is not known.
    pub state_unknown: bool,
    /// What is kept of it beside the PDU, if its content was removed: a JSON object; empty otherwise.
    pub kept: String,
}

/// The answer to [`BatchGetEvents`].
#[derive(Clone, Debug, Default)]
pub struct RoomEvents {
    /// The events that are held, in the order asked for.
    pub events: Vec<RoomEvent>,
    /// The ids of events that are not held in this room.
    pub missing_event_ids: Vec<String>,
    /// How many of the ids were looked at, from the first on. Ask for the others again.
    pub looked_at: usize,
}

/// A page of a room's events.
#[derive(Clone, Debug, Default)]
pub struct EventList {
    /// The events in order of arrival.
    pub events: Vec<RoomEvent>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for events by id. The answer covers as many of the first ids as it has space for.
#[derive(Clone, Debug)]
pub struct BatchGetEvents {
    /// The id of the room.
    pub room_id: String,
    /// The ids; at most 1,000 are looked at.
    pub event_ids: Vec<String>,
}

impl Question for BatchGetEvents {
    type Answer = RoomEvents;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<RoomEvents, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let mut answer = RoomEvents::default();
        let mut space = AnswerSpace::default();
        let reader = EventReader { store, room: &room };
        reader.expect_named(self.event_ids.get(..MAX_IDS).unwrap_or(&self.event_ids))?;
        for event_id in self.event_ids.iter().take(MAX_IDS) {
            if event_id.len() > MAX_ID_BYTES {
                return Err(QueryError::EventIdInvalid);
            }
            match store.event_num(room.number, event_id)? {
                Some(event) => {
                    let event = reader.read(event)?;
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
}

/// Asks for a page of a room's events, in order of arrival.
#[derive(Clone, Debug)]
pub struct ListEvents {
    /// The id of the room.
    pub room_id: String,
    /// Only the events that were appended first, up to this number; 0 for all.
    pub max_append_number: u64,
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListEvents {
    type Answer = EventList;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<EventList, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let after = self.page.position(&room, parse_arrival)?;
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let listed = store.by_arrival(room.number, &room.record, after, size)?;
        let mut answer = EventList::default();
        let mut space = AnswerSpace::default();
        let mut looked_at = 0;
        let mut last = None;
        let reader = EventReader { store, room: &room };
        let expected: Vec<EventNum> = listed.iter().map(|it| it.event).collect();
        reader.expect(&expected)?;
        for arrived in &listed {
            let number = u64::from(arrived.event.0);
            if self.max_append_number == 0 || number < self.max_append_number {
                let event = reader.read(arrived.event)?;
                if !space.take(event.bytes()) {
                    break;
                }
                answer.events.push(event);
            }
            last = Some(*arrived);
            looked_at += 1;
        }
        if let Some(Arrival { arrival, event }) = last
            && (looked_at == size || looked_at < listed.len())
        {
            answer.next_page_token = token(&room, format_args!("{arrival}.{}", event.0));
        }
        Ok(answer)
    }
}

/// Asks for the ids of the state that was given with an event.
#[derive(Clone, Debug)]
pub struct ListStateAfter {
    /// The id of the room.
    pub room_id: String,
    /// The id of the event.
    pub event_id: String,
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListStateAfter {
    type Answer = IdList;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<IdList, QueryError> {
        let room = find_internal(&cx.store, &self.room_id)?;
        let unknown = || QueryError::EventUnknown(self.event_id.clone());
        let event = cx.store.event_num(room.number, &self.event_id)?.ok_or_else(unknown)?;
        let from = self.page.position(&room, |it| it.parse().ok())?.unwrap_or(0);
        let mut space = AnswerSpace::default();
        let size = self.page.size(DEFAULT_STATE_PAGE, MAX_STATE_PAGE);
        let fits = |nth, id: &str| nth < size && space.take(id.len());
        Ok(given_state(&cx.store, &room, event, from, fits)?)
    }
}

fn parse_arrival(position: &str) -> Option<Arrival> {
    let (arrival, event) = position.split_once('.')?;
    Some(Arrival { arrival: arrival.parse().ok()?, event: EventNum(event.parse().ok()?) })
}

/// Reads events of a room with everything known about them.
struct EventReader<'a> {
    store: &'a Store,
    room: &'a FoundRoom,
}

impl EventReader<'_> {
    /// The events with these ids are about to be read.
    fn expect_named(&self, event_ids: &[String]) -> Result<(), StoreError> {
        if !self.store.reads_ahead() {
            return Ok(());
        }
        self.store.expect_ids(self.room.number, short_ids(event_ids))?;
        let number = |event_id| self.store.event_num(self.room.number, event_id).transpose();
        let events: Vec<_> = short_ids(event_ids).filter_map(number).collect::<Result<_, _>>()?;
        self.expect(&events)
    }

    /// These events are about to be read. Only the first are read ahead: an answer may have no space
    /// for more.
    fn expect(&self, events: &[EventNum]) -> Result<(), StoreError> {
        let events = events.get(..MAX_READ_AHEAD).unwrap_or(events);
        self.store.expect_events(self.room.number, events)
    }

    fn read(&self, event: EventNum) -> Result<RoomEvent, StoreError> {
        let Self { store, room, .. } = *self;
        let Body { event_id, pdu } = store.body(room.number, event)?;
        let node = store.topology(room.number).node(event)?;
        let node = node.ok_or_else(|| StoreError::missing("event", event_id.as_bytes()))?;
        let kept = store.remains(room.number, event)?;
        let mut bytes = 0;
        let IdList { ids: state_after, next_page_token: state_after_token } =
            given_state(store, room, event, 0, |_, id| {
                bytes += id.len();
                bytes <= MAX_STATE_BYTES
            })?;
        Ok(RoomEvent {
            state_after,
            state_after_token,
            event_id,
            pdu,
            arrival: node.arrival,
            verdict: Verdict::of_flags(node.flags.rejected, node.flags.soft_failed),
            outlier: node.flags.outlier,
            redacted: node.flags.redacted || is_redacted_by_ban(store, room, event, &node)?,
            unreadable: node.flags.unreadable,
            state_unknown: !node.flags.outlier && node.state_after.is_none(),
            kept: kept.as_ref().map(ingest::kept_text).unwrap_or_default(),
        })
    }
}

/// The ids of the state that was given with an event, from the one at index `from` until the first
/// that does not fit. `fits` gets the position on this page and the id.
fn given_state(
    store: &Store,
    room: &FoundRoom,
    event: EventNum,
    from: usize,
    mut fits: impl FnMut(usize, &str) -> bool,
) -> Result<IdList, StoreError> {
    let given = store.given_state(room.number, event)?.unwrap_or_default();
    if store.reads_ahead() {
        let held = given.iter().skip(from).filter_map(|it| match it {
            GivenEvent::Held(event) => Some(*event),
            GivenEvent::Named(_) => None,
        });
        store.expect_bodies(room.number, &held.take(MAX_READ_AHEAD).collect::<Vec<_>>())?;
    }
    let mut list = IdList::default();
    for it in given.into_iter().skip(from) {
        let event_id = match it {
            GivenEvent::Held(event) => store.body(room.number, event)?.event_id,
            GivenEvent::Named(event_id) => event_id,
        };
        if !fits(list.ids.len(), &event_id) {
            list.next_page_token = token(room, from.saturating_add(list.ids.len()));
            break;
        }
        list.ids.push(event_id);
    }
    Ok(list)
}

impl RoomEvent {
    /// The bytes that the texts of this event take in an answer.
    fn bytes(&self) -> usize {
        // Each id has a tag and a length.
        let ids = self.state_after.iter().map(|it| it.len() + 4).sum::<usize>();
        ids + self.event_id.len() + self.pdu.len() + self.state_after_token.len() + self.kept.len()
    }
}
