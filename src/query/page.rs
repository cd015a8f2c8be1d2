//! The answer to a question that walks through a room: events in the form in which the caller gets
//! them, and the reason why there are no more.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Asker, QueryError, admission::FoundRoom, form::FormDecider, paging::AnswerSpace};
use crate::{
    deadline::Deadline,
    graph::{WalkEnd, WalkResult},
    pdu::{Event, redact_stored},
    store::{Body, EventNode, EventNum, Store, StoreError, View},
    visibility::{self, Form},
};

/// The most missing predecessors that an answer names.
const MAX_GAPS: usize = 100;

/// The answer to a question that walks through a room.
#[derive(Clone, Debug)]
pub struct ServedPage {
    /// The events, in the order that the question asks for.
    pub events: Vec<ServedEvent>,
    /// The reason why there are no more events.
    pub end: WalkEnd,
    /// Ids of predecessors that the walk reached and that are not held: at most 100.
    pub missing_event_ids: Vec<String>,
    /// The ids of those events to start from that are not in the graph of the room: at most 100.
    pub unknown_event_ids: Vec<String>,
    /// How many events were looked up.
    pub visited: u32,
}

/// An event of an answer.
#[derive(Clone, Debug)]
pub struct ServedEvent {
    /// The id of the event.
    pub event_id: String,
    /// The PDU, in the form in which it is served.
    pub pdu: Bytes,
    /// The form in which it is served.
    pub form: Form,
}

/// Collects the events of an answer while a walk finds them, so that no body is read for which the
/// answer has no space.
pub(super) struct PageBuilder<'a> {
    store: &'a Store,
    room: &'a FoundRoom,
    /// `None` for an internal caller, who gets every event in full.
    decider: Option<FormDecider<'a>>,
    deadline: &'a Deadline,
    space: AnswerSpace,
    events: BTreeMap<EventNum, ServedEvent>,
}

impl<'a> PageBuilder<'a> {
    pub(super) fn new(
        store: &'a Store,
        room: &'a FoundRoom,
        asker: &'a Asker,
        deadline: &'a Deadline,
    ) -> Self {
        let decider = asker.origin().map(|origin| FormDecider::new(store, room, origin));
        Self {
            store,
            room,
            decider,
            deadline,
            space: AnswerSpace::default(),
            events: BTreeMap::new(),
        }
    }

    /// Adds an event. Returns false if the answer has no space for it.
    pub(super) fn take(&mut self, event: EventNum, node: &EventNode) -> Result<bool, QueryError> {
        self.deadline.check()?;
        let Body { event_id, pdu } = self.store.body(self.room.number, event)?;
        let form = match &self.decider {
            None => Form::Full,
            Some(decider) => visibility::decide(decider.facts(node, &pdu)?).form(),
        };
        let pdu = match form {
            Form::Full => pdu,
            Form::Redacted => redact_stored(&pdu, self.room.version)
                .map_err(|_| StoreError::corrupt("body", event_id.as_bytes()))?
                .into(),
        };
        let fits = self.space.take(event_id.len() + pdu.len());
        if fits {
            self.events.insert(event, ServedEvent { event_id, pdu, form });
        }
        Ok(fits)
    }

    /// Returns the answer, its events in the order of the walk's result.
    /// `unknown_event_ids` are those to start from that are not in the graph.
    pub(super) fn finish(
        mut self,
        walk: WalkResult<EventNum>,
        unknown_event_ids: Vec<String>,
    ) -> Result<ServedPage, QueryError> {
        let WalkResult { found, gaps, end, visited } = walk;
        let events = found.iter().filter_map(|it| self.events.remove(it)).collect();
        let missing_event_ids = missing_predecessors(self.store, self.room, &gaps)?;
        Ok(ServedPage { events, end, missing_event_ids, unknown_event_ids, visited })
    }
}

/// The ids of those predecessors of some events that are not held.
fn missing_predecessors(
    store: &Store,
    room: &FoundRoom,
    events: &[EventNum],
) -> Result<Vec<String>, QueryError> {
    let mut named = Vec::new();
    let mut seen = BTreeSet::new();
    expect_predecessors(store, room, events)?;
    // Mostly each event names one that no other has named: more events would not fit.
    for event in events.iter().take(MAX_GAPS) {
        let body = store.body(room.number, *event)?;
        let Ok(read) = Event::read(&body.pdu, room.version, &body.event_id) else { continue };
        for prev in read.prev_events() {
            if named.len() >= MAX_GAPS {
                return Ok(named);
            }
            if !is_placed(store, room, prev.as_str())? && seen.insert(prev.as_str().to_owned()) {
                named.push(prev.as_str().to_owned());
            }
        }
    }
    Ok(named)
}

/// Reads ahead the ids of the predecessors of some events.
fn expect_predecessors(
    store: &Store,
    room: &FoundRoom,
    events: &[EventNum],
) -> Result<(), QueryError> {
    if !store.reads_ahead() || events.is_empty() {
        return Ok(());
    }
    let events = events.get(..MAX_GAPS).unwrap_or(events);
    store.expect_bodies(room.number, events)?;
    let mut named = Vec::new();
    for event in events {
        let body = store.body(room.number, *event)?;
        let Ok(read) = Event::read(&body.pdu, room.version, &body.event_id) else { continue };
        named.extend(read.prev_events().iter().map(|it| it.as_str().to_owned()));
    }
    Ok(store.expect_ids(room.number, named.iter().map(String::as_str))?)
}

/// Whether an event is held and placed in the graph, as outliers are not.
fn is_placed(store: &Store, room: &FoundRoom, event_id: &str) -> Result<bool, StoreError> {
    let Some(event) = store.event_num(room.number, event_id)? else { return Ok(false) };
    let node = store.topology(room.number).node(event)?;
    Ok(node.is_some_and(|it| !it.flags.outlier))
}
