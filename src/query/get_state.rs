//! The room state after an event, or the current state. For internal callers.

use super::{
    QueryError, Question,
    admission::{FoundRoom, find_internal},
    paging::{AnswerSpace, PageRequest, token},
};
use crate::{
    context::Context,
    deadline::Deadline,
    pdu::Event,
    state::map::{self, MapKey, Value},
    store::{EventNum, StateNum, Store, StoreError, View},
};

/// The most entries of a page. It ends earlier when it has no space for the next one.
const MAX_PAGE: u32 = 10_000;
/// The entries of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 1_000;

/// The entries whose events are read ahead at a time.
const READ_AHEAD: usize = 128;

/// An entry of a room state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The type of the event.
    pub event_type: String,
    /// The state key of the event.
    pub state_key: String,
    /// The id of the event.
    pub event_id: String,
}

/// A page of a room state.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// The entries, in the order in which the service keeps them.
    pub entries: Vec<StateEntry>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the room state after an event, or for the current state.
#[derive(Clone, Debug)]
pub struct GetState {
    /// The id of the room.
    pub room_id: String,
    /// The event; empty for the current state.
    pub event_id: String,
    /// The part of the state.
    pub page: PageRequest,
}

impl Question for GetState {
    type Answer = StatePage;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<StatePage, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let state = self.state(store, &room)?;
        let after = self.page.position(&room, parse_key)?;
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        store.expect_entries(room.number, state, after, size)?;
        let listed = map::entries(&store.states(room.number), state.root(), after, size)?;
        let mut entries = Vec::new();
        let mut space = AnswerSpace::default();
        let mut last = None;
        let mut is_cut = listed.len() == size;
        for (index, (key, value)) in listed.iter().enumerate() {
            if store.reads_ahead() && index % READ_AHEAD == 0 {
                let next = listed.iter().skip(index).take(READ_AHEAD);
                let events = next.filter_map(|(_, value)| match *value {
                    Value::Event { event, .. } => Some(EventNum(event)),
                    Value::Server { .. } => None,
                });
                store.expect_bodies(room.number, &events.collect::<Vec<_>>())?;
            }
            if let Value::Event { event, .. } = *value {
                let entry = read(store, &room, EventNum(event))?;
                let texts = entry.event_type.len() + entry.state_key.len() + entry.event_id.len();
                if !space.take(texts) {
                    is_cut = true;
                    break;
                }
                entries.push(entry);
            }
            last = Some(*key);
        }
        let next = last.filter(|_| is_cut);
        let next = next.map(|it| token(&room, format_args!("{:032x}", u128::from_be_bytes(it.0))));
        Ok(StatePage { entries, next_page_token: next.unwrap_or_default() })
    }
}

impl GetState {
    /// The state that is asked for.
    fn state(&self, store: &Store, room: &FoundRoom) -> Result<StateNum, QueryError> {
        if self.event_id.is_empty() {
            let unknown = "the current state is not known: some forward extremity's is not";
            return room.record.current_state.ok_or(QueryError::StateUnknown(unknown));
        }
        let unknown = || QueryError::EventUnknown(self.event_id.clone());
        let event = store.event_num(room.number, &self.event_id)?.ok_or_else(unknown)?;
        let node = store.topology(room.number).node(event)?.ok_or_else(unknown)?;
        let unknown = if node.flags.outlier {
            "the event is an outlier: it is not placed in the graph, so it has no state"
        } else {
            "the state after this event is not known: some predecessor is not held, or its state \
             is not known"
        };
        node.state_after.ok_or(QueryError::StateUnknown(unknown))
    }
}

fn read(store: &Store, room: &FoundRoom, event: EventNum) -> Result<StateEntry, StoreError> {
    let body = store.body(room.number, event)?;
    let damaged = || StoreError::corrupt("state event", body.event_id.as_bytes());
    let read = Event::read(&body.pdu, room.version, &body.event_id).map_err(|_| damaged())?;
    let (event_type, state_key) = read.state_entry().ok_or_else(damaged)?;
    Ok(StateEntry {
        event_type: event_type.to_owned(),
        state_key: state_key.to_owned(),
        event_id: body.event_id,
    })
}

fn parse_key(position: &str) -> Option<MapKey> {
    Some(MapKey(u128::from_str_radix(position, 16).ok()?.to_be_bytes()))
}
