//! Sends rows of the database to the history service.

use anyhow::Context as _;
use tokio_postgres::Transaction;

use super::Context;
use crate::{
    database::{rows, rows::EventRow, state},
    history::append::{self, Sent},
    proto::v1::{AppendEventsRequest, Replace, Verdict},
};

/// Longest `state_after` that the history service takes. An event with a larger state is sent without
/// it: then its state stays unknown, and it is served redacted.
const MAX_STATE_ENTRIES: usize = 200_000;

/// An event to send, with the state after it where the history service cannot compute it.
#[derive(Clone, Debug)]
pub(crate) struct ToSend {
    /// The event.
    pub(crate) row: EventRow,
    /// The ids of all state events after it; empty if the state follows from its predecessors.
    pub(crate) state_after: Vec<String>,
}

/// Adds the states to rows that were read in this transaction.
///
/// # Errors
/// When a database fails.
pub(crate) async fn with_states(
    context: &Context,
    transaction: &Transaction<'_>,
    rows: Vec<EventRow>,
) -> anyhow::Result<Vec<ToSend>> {
    let ids: Vec<String> =
        rows.iter().filter(|it| !it.outlier).map(|it| it.event_id.clone()).collect();
    let missing = rows::with_missing_predecessors(transaction, &ids).await?;
    let missing: std::collections::HashSet<String> = missing.into_iter().collect();
    let mut groups = std::collections::HashMap::<i64, Vec<String>>::new();
    if !missing.is_empty() {
        let mut session = context.databases.state.connect().await?;
        for row in rows.iter().filter(|it| missing.contains(&it.event_id)) {
            let Some(group) = row.state_group else { continue };
            if let std::collections::hash_map::Entry::Vacant(entry) = groups.entry(group) {
                let transaction = session.begin().await?;
                entry.insert(state::of_group(&transaction, group).await.context("state groups")?);
            }
        }
    }
    let to_send = rows.into_iter().map(|row| {
        let group = row.state_group.filter(|_| missing.contains(&row.event_id));
        let state = group.and_then(|it| groups.get(&it)).cloned().unwrap_or_default();
        let state_after = if state.len() > MAX_STATE_ENTRIES { Vec::new() } else { state };
        ToSend { row, state_after }
    });
    Ok(to_send.collect())
}

/// Sends events, and waits until each is on disk or was refused.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn send(
    context: &Context,
    events: Vec<ToSend>,
    replace: Replace,
) -> anyhow::Result<Vec<Sent>> {
    let requests = events.into_iter().map(|it| request(it, replace)).collect();
    Ok(append::append(&context.history, requests).await?)
}

fn request(event: ToSend, replace: Replace) -> AppendEventsRequest {
    let ToSend { row, state_after } = event;
    let verdict = match (row.rejected, row.soft_failed) {
        (true, _) => Verdict::Rejected,
        (false, true) => Verdict::SoftFailed,
        (false, false) => Verdict::Accepted,
    };
    AppendEventsRequest {
        room_id: row.room_id,
        room_version: row.room_version.unwrap_or_default(),
        event_id: row.event_id,
        pdu: row.json.into(),
        verdict: verdict.into(),
        outlier: row.outlier,
        state_after,
        arrival: Some(row.stream_ordering),
        replace: replace.into(),
    }
}
