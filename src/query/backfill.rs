//! The events before some events: `/backfill`
//! (<https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1backfillroomid>).
//!
//! A walk looks up at most 4 × `limit` + 1,000 events, which is 1,400 for the greatest limit. What it
//! looks up beyond the answer are rejected events, which are walked through, and branches that are
//! in reach but not reached.

use super::{
    Asker, Cost, QueryError, Question, ServedPage, WalkQuestion,
    admission::admit,
    page::PageBuilder,
    question::cost_of,
    servable::{named_events, short_ids, walk_node},
};
use crate::{
    context::Context,
    deadline::Deadline,
    graph,
    slow_walks::WalkKind,
    store::{ExpectedQuestion, View},
};

/// The most events of an answer. It ends earlier when it has no space for the next one.
const MAX_EVENTS: u32 = 100;
/// The most events to start from; homeservers send up to five.
const MAX_START: usize = 100;
/// Lookups that a walk may make besides four for each event of the answer.
const SPARE_LOOKUPS: u32 = 1_000;

/// Asks for the events before some events, newest first.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// The id of the room.
    pub room_id: String,
    /// The caller on whose behalf the question is asked.
    pub asker: Asker,
    /// The events to start from. They are part of the answer.
    pub event_ids: Vec<String>,
    /// The most events of the answer; at most 100 count. Required.
    pub limit: Option<u32>,
}

impl Backfill {
    /// Those of the events to start from that count.
    pub(super) fn start(&self) -> &[String] {
        self.event_ids.get(..MAX_START).unwrap_or(&self.event_ids)
    }

    /// What the answer reads of the room.
    fn expected(&self) -> ExpectedQuestion<'_> {
        let event_ids: Vec<&str> = short_ids(self.start()).collect();
        let starts = event_ids.len();
        ExpectedQuestion { event_ids, starts, events: self.counted_limit(), ..Default::default() }
    }

    /// The most events of the answer.
    pub(super) fn counted_limit(&self) -> usize {
        let limit = self.limit.unwrap_or_default().min(MAX_EVENTS);
        usize::try_from(limit).expect("at most 100")
    }
}

impl Question for Backfill {
    type Answer = ServedPage;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn cost(&self) -> Cost {
        cost_of(self.event_ids.len())
    }

    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<ServedPage, QueryError> {
        let store = &cx.store;
        let room = admit(store, &self.room_id, &self.asker, || self.expected())?;
        if self.event_ids.is_empty() {
            return Err(QueryError::EventIdsMissing);
        }
        let limit = match self.limit {
            None => return Err(QueryError::LimitMissing),
            Some(0) => return Err(QueryError::LimitInvalid),
            Some(limit) => limit.min(MAX_EVENTS),
        };
        let budget = 4 * limit + SPARE_LOOKUPS;
        let limit = usize::try_from(limit).expect("at most 100");
        let topology = store.topology(room.number);
        let from = named_events(&topology, store, room.number, &self.event_ids, MAX_START)?;
        let look = |event| walk_node(&topology, event, deadline);
        let mut page = PageBuilder::new(store, &room, &self.asker, deadline);
        let take = |event, node| page.take(event, &node);
        let walk = graph::walk_back(&from.held, limit, budget, look, take)?;
        page.finish(walk, from.unknown)
    }
}

impl WalkQuestion for Backfill {
    const KIND: WalkKind = WalkKind::Backfill;

    fn asker(&self) -> &Asker {
        &self.asker
    }
}
