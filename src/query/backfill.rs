//! What came before: `/backfill`
//! (<https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1backfillroomid>).

use super::{Asker, Page, QueryError, admit, held, serve::Filling, walkable};
use crate::{context::Context, deadline::Deadline, graph, store::View};

/// Most events of an answer; it ends earlier when their texts have no room.
const MAX_EVENTS: u32 = 100;
/// Most events to start from; homeservers send up to five.
const MAX_START: usize = 100;
/// Looked at beside those of the answer: rejected events that are walked through, and branches
/// that are in reach but not reached.
const SPARE_LOOKUPS: u32 = 1_000;

/// The question.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// The room.
    pub room_id: String,
    /// Who asks.
    pub asker: Asker,
    /// Where to start; part of the answer.
    pub event_ids: Vec<String>,
    /// How many events to answer with at most.
    pub limit: Option<u32>,
}

/// Answers it: newest first.
///
/// # Errors
/// When the asker may not ask, when there is nowhere to start or no limit, when the store fails, when the deadline passes.
pub fn backfill(
    cx: &Context,
    question: &Backfill,
    deadline: &Deadline,
) -> Result<Page, QueryError> {
    let store = &cx.store;
    let found = admit(store, &question.room_id, &question.asker)?;
    if question.event_ids.is_empty() {
        return Err(QueryError::EventIdsMissing);
    }
    let limit = match question.limit {
        None => return Err(QueryError::LimitMissing),
        Some(0) => return Err(QueryError::LimitInvalid),
        Some(limit) => limit.min(MAX_EVENTS),
    };
    let topology = store.topology(found.number);
    let from = held(store, found.number, &question.event_ids, MAX_START)?;
    let budget = 4 * limit + SPARE_LOOKUPS;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut page = Filling::new(store, (&found, &topology), &question.asker, deadline);
    let node = |event| walkable(&topology, event, deadline);
    let walk = graph::walk_back(&from, limit, budget, node, |event| page.take(event))?;
    page.finish(walk)
}
