//! Sends events on one stream, with a bounded number under way.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{History, HistoryError};
use crate::proto::v1::{
    AppendEventsRequest, AppendEventsResponse, RefusalReason, append_events_response::Outcome,
};

/// Number of events that may be sent before their responses are received.
const IN_FLIGHT: usize = 512;

/// What the history service did with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The room of the event.
    pub(crate) room_id: String,
    /// The event.
    pub(crate) event_id: String,
    /// What happened to it.
    pub(crate) result: SendResult,
}

/// What happened to an event that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SendResult {
    /// It was appended.
    Appended,
    /// It was held already; at most its missing state was stored.
    Duplicate,
    /// It was held with other bytes or another verdict, which were replaced.
    Replaced,
    /// It was purged from the history service, and may not return.
    Purged,
    /// It is held as an unreadable event: it breaks the format of its room version in the way that the
    /// text describes.
    Unreadable(String),
    /// It was not stored.
    Refused(RefusedEvent),
}

/// Why an event was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedEvent {
    /// The reason.
    pub(crate) reason: RefusalReason,
    /// What is wrong and where, for people.
    pub(crate) message: String,
}

/// Sends events, and waits until each is on disk or was refused. The results have the order of the
/// requests.
///
/// # Errors
/// When the stream ends early. Events without a response may be sent again.
pub(crate) async fn append(
    history: &History,
    requests: Vec<AppendEventsRequest>,
) -> Result<Vec<Sent>, HistoryError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = requests.iter().map(|it| (it.room_id.clone(), it.event_id.clone())).collect();
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let (to_service, stream) = mpsc::channel(IN_FLIGHT);
    let sending = tokio::spawn(send(requests, to_service, Arc::clone(&permits)));
    let mut ingest = history.ingest.clone();
    let mut responses = ingest.append_events(ReceiverStream::new(stream)).await?.into_inner();
    let mut sent = Vec::with_capacity(ids.len());
    for (room_id, event_id) in ids {
        let Some(response) = responses.message().await? else {
            sending.abort();
            return Err(Status::unavailable("the stream of responses ended early").into());
        };
        permits.add_permits(1);
        sent.push(Sent { room_id, event_id, result: result(response)? });
    }
    Ok(sent)
}

async fn send(
    requests: Vec<AppendEventsRequest>,
    to_service: mpsc::Sender<AppendEventsRequest>,
    permits: Arc<Semaphore>,
) {
    for request in requests {
        let Ok(permit) = permits.acquire().await else { return };
        // The response to this event returns it.
        permit.forget();
        if to_service.send(request).await.is_err() {
            return;
        }
    }
}

fn result(response: AppendEventsResponse) -> Result<SendResult, HistoryError> {
    Ok(match response.outcome {
        Some(Outcome::Refusal(refusal)) => {
            let reason = refusal.reason();
            SendResult::Refused(RefusedEvent { reason, message: refusal.message })
        }
        Some(Outcome::Appended(appended)) if appended.purged => SendResult::Purged,
        Some(Outcome::Appended(appended)) if appended.replaced => SendResult::Replaced,
        Some(Outcome::Appended(appended)) if appended.duplicate || appended.state_given => {
            SendResult::Duplicate
        }
        Some(Outcome::Appended(appended)) if appended.unreadable => {
            SendResult::Unreadable(appended.unreadable_description)
        }
        Some(Outcome::Appended(_)) => SendResult::Appended,
        None => {
            let text = "an unknown outcome: the history service has another version";
            return Err(Status::internal(text).into());
        }
    })
}
