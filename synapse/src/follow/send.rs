//! Sends rows of the database to the history service.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use tokio_postgres::Transaction;

use super::Context;
use crate::{
    database::{Database, Session, rows, rows::EventRow, state},
    history::append::{self, SendResult, Sent},
    proto::v1::{AppendEventsRequest, RefusalReason, Replace, Verdict},
};

/// Longest `state_after` that the history service takes. An event with a larger state is sent without
/// it: then its state stays unknown, and it is served redacted.
const MAX_STATE_ENTRIES: usize = 200_000;
/// The most ids of state events that are kept for events with the same state group, before one more
/// state is read.
const MAX_CACHED_ENTRIES: usize = 200_000;

/// An event to send, with the state after it where the history service cannot compute it.
#[derive(Clone, Debug)]
pub(crate) struct ToSend {
    /// The event.
    pub(crate) row: EventRow,
    /// The ids of all state events after it; empty if the state follows from its predecessors.
    pub(crate) state_after: Vec<String>,
}

/// Reads states over a connection of its own, because they may be in another database.
#[derive(Debug)]
pub(crate) struct StateReader {
    database: Database,
    session: Option<Session>,
    /// States that were read, by state group. Groups never change, and many events share one.
    read: HashMap<i64, Vec<String>>,
}

impl StateReader {
    /// Reads states from this database. The connection is opened when it is needed.
    pub(crate) fn new(database: Database) -> Self {
        Self { database, session: None, read: HashMap::new() }
    }

    /// Adds the state to an event, if it is among those with `missing` predecessors.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn add_state(
        &mut self,
        row: EventRow,
        missing: &HashSet<String>,
    ) -> anyhow::Result<ToSend> {
        let group = row.state_group.filter(|_| missing.contains(&row.event_id));
        let Some(group) = group else { return Ok(ToSend { row, state_after: Vec::new() }) };
        if !self.read.contains_key(&group) {
            if self.read.values().map(Vec::len).sum::<usize>() > MAX_CACHED_ENTRIES {
                self.read.clear();
            }
            let state = self.read_group(group).await?;
            self.read.insert(group, state);
        }
        let mut state_after = self.read.get(&group).cloned().unwrap_or_default();
        if state_after.len() > MAX_STATE_ENTRIES {
            let entries = state_after.len();
            tracing::warn!(event_id = row.event_id, entries, "the state is too large to be sent");
            state_after = Vec::new();
        }
        Ok(ToSend { row, state_after })
    }

    async fn read_group(&mut self, state_group: i64) -> anyhow::Result<Vec<String>> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.database.connect().await.context("the database of state groups")?,
        };
        let transaction = session.begin().await?;
        let state = state::of_group(&transaction, state_group).await.context("state groups")?;
        transaction.commit().await?;
        // After an error it is dropped: the next attempt opens a new one.
        self.session = Some(session);
        Ok(state)
    }
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
    with_states_of(&mut *context.states.lock().await, transaction, rows).await
}

/// The same with a reader of states.
///
/// # Errors
/// When a database fails.
pub(crate) async fn with_states_of(
    reader: &mut StateReader,
    transaction: &Transaction<'_>,
    rows: Vec<EventRow>,
) -> anyhow::Result<Vec<ToSend>> {
    let missing = missing(transaction, &rows).await?;
    let mut to_send = Vec::with_capacity(rows.len());
    for row in rows {
        to_send.push(reader.add_state(row, &missing).await?);
    }
    Ok(to_send)
}

/// Of some events, those that need their state: a predecessor is not held, or is an outlier.
///
/// # Errors
/// When the database fails.
pub(crate) async fn missing(
    transaction: &Transaction<'_>,
    rows: &[EventRow],
) -> Result<HashSet<String>, tokio_postgres::Error> {
    let ids: Vec<String> =
        rows.iter().filter(|it| !it.outlier).map(|it| it.event_id.clone()).collect();
    Ok(rows::with_missing_predecessors(transaction, &ids).await?.into_iter().collect())
}

/// Sends events, and waits until each is on disk or was refused. Counts the results, and logs events
/// that were refused or are unreadable.
///
/// # Errors
/// When the history service fails.
pub(crate) async fn send(
    context: &Context,
    events: Vec<ToSend>,
    replace: Replace,
) -> anyhow::Result<Vec<Sent>> {
    let requests = events.into_iter().map(|it| request(it, replace)).collect();
    let sent = append::append(&context.history, requests).await?;
    context.metrics.sent(&sent);
    for event in &sent {
        let Sent { room_id, event_id, result } = event;
        match result {
            SendResult::Refused(refused) if refused.reason == RefusalReason::Conflict => {
                let message = &refused.message;
                tracing::debug!(room_id, event_id, message, "an event is held otherwise");
            }
            SendResult::Refused(refused) => {
                let reason = refused.reason.as_str_name();
                let message = &refused.message;
                tracing::warn!(room_id, event_id, reason, message, "an event was refused");
            }
            SendResult::Unreadable(message) => {
                tracing::info!(room_id, event_id, message, "an event is held as unreadable");
            }
            SendResult::Purged => {
                tracing::warn!(room_id, event_id, "an event was purged here, and may not return");
            }
            SendResult::Appended | SendResult::Duplicate | SendResult::Replaced => {}
        }
    }
    Ok(sent)
}

/// Whether the history service cannot hold the room of an event that was refused for this reason.
pub(crate) fn is_about_room(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::RoomIdInvalid
            | RefusalReason::RoomVersionMissing
            | RefusalReason::RoomVersionUnknown
            | RefusalReason::RoomVersionMismatch
    )
}

fn request(event: ToSend, replace: Replace) -> AppendEventsRequest {
    let ToSend { row, state_after } = event;
    let verdict = match (row.rejected, row.soft_failed) {
        (true, _) => Verdict::Rejected,
        (false, true) => Verdict::SoftFailed,
        (false, false) => Verdict::Accepted,
    };
    AppendEventsRequest {
        kept: String::new(),
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
