//! The events between known events and newer ones: `/get_missing_events`
//! (<https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>).
//!
//! A walk looks up at most 1,000 events: those of the answer, rejected ones, and those below
//! `min_depth`.

use super::{
    Asker, Cost, QueryError, Question, ServedPage, WalkQuestion,
    admission::admit,
    page::PageBuilder,
    question::cost_of,
    servable::{held_events, named_events, short_ids, walk_node},
};
use crate::{
    context::Context,
    deadline::Deadline,
    graph,
    slow_walks::WalkKind,
    store::{ExpectedQuestion, View},
};

/// The most events of an answer when the caller gives no limit.
const DEFAULT_EVENTS: u32 = 10;
/// The most events of an answer. It ends earlier when it has no space for the next one.
const MAX_EVENTS: u32 = 20;
/// The most events to start from.
const MAX_LATEST: usize = 100;
/// The most events to stop at: more than the forward extremities of a large room.
const MAX_EARLIEST: usize = 5_000;
/// The most events that a walk looks up.
const BUDGET: u32 = 1_000;

/// Asks for the events between known events and newer ones, oldest first: each event follows its
/// predecessors.
#[derive(Clone, Debug)]
pub struct GetMissingEvents {
    /// The id of the room.
    pub room_id: String,
    /// The caller on whose behalf the question is asked.
    pub asker: Asker,
    /// The events that the caller has. They are neither part of the answer nor walked through.
    pub earliest_events: Vec<String>,
    /// The events to start from. They are never part of the answer.
    pub latest_events: Vec<String>,
    /// The most events of the answer: 10 if not given, and at most 20 count.
    pub limit: Option<u32>,
    /// Events of a lower depth are neither part of the answer nor walked through.
    pub min_depth: i64,
}

impl GetMissingEvents {
    /// Those of the events to stop at that count.
    pub(super) fn end(&self) -> &[String] {
        self.earliest_events.get(..MAX_EARLIEST).unwrap_or(&self.earliest_events)
    }

    /// Those of the events to start from that count.
    pub(super) fn start(&self) -> &[String] {
        self.latest_events.get(..MAX_LATEST).unwrap_or(&self.latest_events)
    }

    /// What the answer reads of the room.
    fn expected(&self) -> ExpectedQuestion<'_> {
        let mut event_ids: Vec<&str> = short_ids(self.start()).collect();
        let starts = event_ids.len();
        event_ids.extend(short_ids(self.end()));
        // Those to start from are walked through, but are no part of the answer.
        let events = starts + self.counted_limit();
        ExpectedQuestion { event_ids, starts, events, ..Default::default() }
    }

    /// The most events of the answer.
    pub(super) fn counted_limit(&self) -> usize {
        let limit = self.limit.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS);
        usize::try_from(limit).expect("at most 20")
    }
}

impl Question for GetMissingEvents {
    type Answer = ServedPage;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn cost(&self) -> Cost {
        cost_of(self.earliest_events.len() + self.latest_events.len())
    }

    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<ServedPage, QueryError> {
        let store = &cx.store;
        let room = admit(store, &self.room_id, &self.asker, || self.expected())?;
        let limit = self.counted_limit();
        let topology = store.topology(room.number);
        let latest = named_events(&topology, store, room.number, &self.latest_events, MAX_LATEST)?;
        let earliest = held_events(store, room.number, &self.earliest_events, MAX_EARLIEST)?;
        let between =
            graph::Between { earliest: &earliest, latest: &latest.held, min_depth: self.min_depth };
        let look = |event| walk_node(&topology, event, deadline);
        let mut page = PageBuilder::new(store, &room, &self.asker, deadline);
        let take = |event, node| page.take(event, &node);
        let walk = graph::walk_missing(between, limit, BUDGET, look, take)?;
        page.finish(walk, latest.unknown)
    }
}

impl WalkQuestion for GetMissingEvents {
    const KIND: WalkKind = WalkKind::GetMissingEvents;

    fn asker(&self) -> &Asker {
        &self.asker
    }
}
