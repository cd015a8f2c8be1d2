//! What was missed in between: `/get_missing_events`
//! (<https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>).

use super::{Asker, Page, QueryError, admit, held, serve::Filling, walkable};
use crate::{context::Context, deadline::Deadline, graph, store::View};

/// How many events are answered with when the asker does not say.
const DEFAULT_EVENTS: u32 = 10;
/// Most events of an answer; it ends earlier when their texts have no room.
const MAX_EVENTS: u32 = 20;
/// Most events to start from.
const MAX_LATEST: usize = 100;
/// Most events to stop at: a large room's extremities, and then some.
const MAX_EARLIEST: usize = 5_000;
/// Most events looked at: those of the answer, rejected ones and those below `min_depth`.
const BUDGET: u32 = 1_000;

/// The question.
#[derive(Clone, Debug)]
pub struct GetMissingEvents {
    /// The room.
    pub room_id: String,
    /// Who asks.
    pub asker: Asker,
    /// Neither answered nor walked through.
    pub earliest_events: Vec<String>,
    /// Where to start; never part of the answer.
    pub latest_events: Vec<String>,
    /// How many events to answer with at most.
    pub limit: Option<u32>,
    /// Events of a lower depth are neither answered nor walked through.
    pub min_depth: i64,
}

/// Answers it: oldest first, each event after its predecessors.
///
/// # Errors
/// When the asker may not ask, or the store fails, when the deadline passes.
pub fn get_missing_events(
    cx: &Context,
    question: &GetMissingEvents,
    deadline: &Deadline,
) -> Result<Page, QueryError> {
    let store = &cx.store;
    let found = admit(store, &question.room_id, &question.asker)?;
    let limit = question.limit.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS);
    let topology = store.topology(found.number);
    let latest = held(store, found.number, &question.latest_events, MAX_LATEST)?;
    let earliest = held(store, found.number, &question.earliest_events, MAX_EARLIEST)?;
    let between =
        graph::Between { earliest: &earliest, latest: &latest, min_depth: question.min_depth };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page = Filling::new(store, (&found, &topology), &question.asker, deadline);
    let node = |event| walkable(&topology, event, deadline);
    let walk = graph::walk_missing(between, limit, BUDGET, node, |event| page.take(event))?;
    page.finish(walk)
}
