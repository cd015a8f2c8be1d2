//! The room state after an event, or now. For sister services.

use super::{
    Asker, Found, QueryError, admit,
    pages::{Space, rest_of, token},
};
use crate::{
    context::Context,
    pdu::Event,
    state::map::{self, Key, Value},
    store::{EventNum, Store, StoreError, View},
};

/// Most entries of a page, which ends earlier when they have no room; and how many when the asker does not say.
const MAX_PAGE: u32 = 10_000;
const DEFAULT_PAGE: u32 = 1_000;

/// An entry of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The event's type.
    pub event_type: String,
    /// Its state key.
    pub state_key: String,
    /// Its id.
    pub event_id: String,
}

/// A page of the state.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// In an order of our own.
    pub entries: Vec<StateEntry>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A page of the state after an event; with an empty id, of the current state.
///
/// # Errors
/// When there is no such room or event, when its state is not known, when the token is not ours,
/// or the store fails.
pub fn get_state(
    cx: &Context,
    (room_id, event_id): (&str, &str),
    (page_size, page_token): (u32, &str),
) -> Result<StatePage, QueryError> {
    let store = &cx.store;
    let found = admit(store, room_id, &Asker::Sister)?;
    let state = if event_id.is_empty() {
        let unknown = "the current state is not known: some forward extremity's is not";
        found.room.current_state.ok_or(QueryError::StateUnknown(unknown))?
    } else {
        let unknown = || QueryError::EventUnknown(event_id.to_owned());
        let event = store.event_num(found.number, event_id)?.ok_or_else(unknown)?;
        let node = store.topology(found.number).node(event)?.ok_or_else(unknown)?;
        let unknown = if node.flags.outlier {
            "the event is an outlier: it is not placed in the graph, so it has no state"
        } else {
            "the state after this event is not known: some predecessor is not held, or its state \
             is not known"
        };
        node.state_after.ok_or(QueryError::StateUnknown(unknown))?
    };
    let after = match rest_of(page_token, &found)? {
        None => None,
        Some(rest) => Some(parse_key(rest).ok_or(QueryError::PageTokenInvalid)?),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let listed = map::entries(&store.states(found.number), state.root(), after, size)?;
    let (mut entries, mut space) = (Vec::new(), Space::default());
    let (mut last, mut is_cut) = (None, listed.len() == size);
    for (key, value) in &listed {
        if let Value::Event { event, .. } = *value {
            let entry = entry(store, &found, EventNum(event))?;
            if !space.take(entry.event_type.len() + entry.state_key.len() + entry.event_id.len()) {
                is_cut = true;
                break;
            }
            entries.push(entry);
        }
        last = Some(*key);
    }
    let next = last.filter(|_| is_cut);
    let next = next.map(|it| token(&found, format_args!("{:032x}", u128::from_be_bytes(it.0))));
    Ok(StatePage { entries, next_page_token: next.unwrap_or_default() })
}

fn entry(store: &Store, found: &Found, event: EventNum) -> Result<StateEntry, StoreError> {
    let body = store.body(found.number, event)?;
    let damaged = || StoreError::corrupt("state event", body.event_id.as_bytes());
    let read = Event::read(&body.pdu, found.version, &body.event_id).map_err(|_| damaged())?;
    let (event_type, state_key) = read.state_entry().ok_or_else(damaged)?;
    let (event_type, state_key) = (event_type.to_owned(), state_key.to_owned());
    Ok(StateEntry { event_type, state_key, event_id: body.event_id })
}

fn parse_key(rest: &str) -> Option<Key> {
    Some(Key(u128::from_str_radix(rest, 16).ok()?.to_be_bytes()))
}
