//! All queries about a room, and their results in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use backscroll::{
    context::Context,
    deadline::Deadline,
    graph::WalkEnd,
    query::{
        self, Asker, Backfill, GetMissingEvents, GetRoom, GetState, ListErasedMembers, ListEvents,
        PageRequest, QueryError, RoomEvent, RoomSummary, ServedEvent, ServedPage, StateEntry,
    },
    visibility::Form,
};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::rooms::Request;

/// Runs a query without a deadline.
pub(crate) fn ask<Q: query::Question>(cx: &Context, question: &Q) -> Result<Q::Answer, QueryError> {
    query::answer(cx, question, &Deadline::none())
}

/// The summary of a room.
pub(crate) fn room(cx: &Context, room_id: &str) -> Result<RoomSummary, QueryError> {
    ask(cx, &GetRoom { room_id: room_id.to_owned() })
}

/// The first thousand events of a room, in order of arrival.
pub(crate) fn events(cx: &Context, room_id: &str) -> Vec<RoomEvent> {
    let page = PageRequest::first(1_000);
    ask(cx, &ListEvents { room_id: room_id.to_owned(), max_append_number: 0, page }).unwrap().events
}

/// A request for a room's history.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Backfill(Backfill),
    MissingEvents(GetMissingEvents),
}

/// A result; an error is its text.
pub(crate) type Answer = Result<Served, String>;

/// The part of a result that must not depend on the order in which events were appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) events: Vec<(String, Form, Vec<u8>)>,
    pub(crate) end: WalkEnd,
    pub(crate) missing_event_ids: Vec<String>,
    pub(crate) visited: u32,
}

/// The state after an event, by type and state key; `None` if it is unknown.
pub(crate) type State = Option<BTreeMap<(String, String), String>>;

impl Question {
    /// Converts a recorded request.
    pub(crate) fn recorded(room_id: &str, request: &Request) -> Self {
        let asker = Asker::Server {
            origin: request.origin.clone(),
            destination: request.destination.clone(),
        };
        let room_id = room_id.to_owned();
        let Some(content) = &request.content else {
            let (event_ids, limit) = backfill_parameters(&request.uri);
            return Self::Backfill(Backfill { room_id, asker, event_ids, limit });
        };
        let ids = |member: &str| {
            let ids = content[member].as_array().into_iter().flatten().filter_map(Value::as_str);
            ids.map(str::to_owned).collect()
        };
        Self::MissingEvents(GetMissingEvents {
            room_id,
            asker,
            earliest_events: ids("earliest_events"),
            latest_events: ids("latest_events"),
            limit: content["limit"].as_i64().map(|it| u32::try_from(it.max(0)).unwrap()),
            min_depth: content["min_depth"].as_i64().unwrap_or(0),
        })
    }

    /// Runs the query.
    pub(crate) fn ask(&self, cx: &Context) -> Answer {
        let page = match self {
            Self::Backfill(question) => ask(cx, question),
            Self::MissingEvents(question) => ask(cx, question),
        };
        match page {
            Ok(ServedPage { events, end, missing_event_ids, unknown_event_ids: _, visited }) => {
                let event = |it| {
                    let ServedEvent { event_id, pdu, form } = it;
                    (event_id, form, pdu.to_vec())
                };
                let events = events.into_iter().map(event).collect();
                Ok(Served { events, end, missing_event_ids, visited })
            }
            // The reason is part of the result.
            Err(QueryError::NotAllowed(reason)) => Err(format!("not allowed: {reason}")),
            Err(other) => Err(other.to_string()),
        }
    }
}

/// Reads the parameters `v` and `limit` of a `/backfill` request.
fn backfill_parameters(uri: &str) -> (Vec<String>, Option<u32>) {
    let (mut event_ids, mut limit) = (Vec::new(), None);
    let (_, parameters) = uri.split_once('?').unwrap_or_default();
    for (name, value) in parameters.split('&').filter_map(|it| it.split_once('=')) {
        let value = percent_decode_str(value).decode_utf8().unwrap().into_owned();
        match name {
            "v" => event_ids.push(value),
            "limit" => limit = Some(value.parse().unwrap()),
            other => panic!("a recorded request has the parameter {other}"),
        }
    }
    (event_ids, limit)
}

/// The state after an event, or the current state if the id is empty.
pub(crate) fn state(cx: &Context, room_id: &str, event_id: &str) -> State {
    let question = GetState {
        room_id: room_id.to_owned(),
        event_id: event_id.to_owned(),
        page: PageRequest::first(10_000),
    };
    match ask(cx, &question) {
        Ok(page) => {
            assert_eq!(page.next_page_token, "", "the state fits a page");
            let entry = |it| {
                let StateEntry { event_type, state_key, event_id } = it;
                ((event_type, state_key), event_id)
            };
            Some(page.entries.into_iter().map(entry).collect())
        }
        Err(QueryError::StateUnknown(_)) => None,
        Err(other) => panic!("{other}"),
    }
}

/// A room's summary, without the order of its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) forward_extremities: BTreeSet<String>,
    pub(crate) backward_extremities: BTreeSet<String>,
    pub(crate) erased_users: BTreeSet<String>,
    /// The number of events, outliers, rejected, soft-failed and unreadable events.
    pub(crate) counts: [u64; 5],
    pub(crate) state_count: Option<u32>,
}

pub(crate) fn summary(cx: &Context, room_id: &str) -> Summary {
    let RoomSummary {
        room_id: _,
        room_version: _,
        forward_extremities,
        forward_extremity_count: _,
        backward_extremities,
        event_count,
        appended_count: _,
        outlier_count,
        rejected_count,
        soft_failed_count,
        unreadable_count,
        state_count,
        state_needed: _,
    } = room(cx, room_id).unwrap();
    let page = PageRequest::default();
    let erased = ListErasedMembers { room_id: room_id.to_owned(), page };
    let erased_users = ask(cx, &erased).unwrap().ids;
    Summary {
        forward_extremities: forward_extremities.into_iter().collect(),
        backward_extremities: backward_extremities.into_iter().collect(),
        erased_users: erased_users.into_iter().collect(),
        counts: [event_count, outlier_count, rejected_count, soft_failed_count, unreadable_count],
        state_count,
    }
}
