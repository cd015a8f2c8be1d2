//! An `AppendEvents` stream: requests that have arrived are appended as one batch, flushed once, and
//! then acknowledged in the order in which they were received.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Span;

use super::{executor::Executor, lease::CallLease, progress::Sender, status, wire};
use crate::{
    context::Context,
    ingest::{self, BatchOutcome, NewEvent, Outcome},
    metrics::Metrics,
    proto::v1 as pb,
};

/// The most events of a batch: enough to make flushing cheap, few enough that the first of them does
/// not wait long.
const MAX_BATCH: usize = 256;
/// The most bytes of PDUs in a batch; the last event may exceed it.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// The most acknowledgements that wait for a slow reader. Beyond that, no events are read from it.
pub(super) const MAX_UNREAD: usize = 512;

/// What a stream of events needs.
pub(super) struct AppendStream {
    pub(super) cx: Arc<Context>,
    pub(super) executor: Executor,
    pub(super) lease: CallLease,
    pub(super) stopping: CancellationToken,
}

impl AppendStream {
    /// Appends the events of a stream, and acknowledges each when it is on disk.
    pub(super) async fn append(
        self,
        mut requests: Streaming<pb::AppendEventsRequest>,
        to_caller: &Sender<pb::AppendEventsResponse>,
    ) -> Result<(), Status> {
        let Self { cx, executor, lease, stopping } = self;
        let mut counts = StreamCounts::default();
        loop {
            let first = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(status::stopping()),
                first = next(&mut requests) => first?,
            };
            let Some(first) = first else { return Ok(()) };
            let Batch { requests: batch, next } = take_batch(first, &mut requests);
            let appending = Arc::clone(&cx);
            let writing = lease.begin_write(&cx.feeder)?;
            let append = move || {
                let _writing = writing;
                append_all(&appending, &batch)
            };
            let BatchOutcome { outcomes, failure } = executor.blocking(append).await?;
            for outcome in outcomes {
                counts.add(&cx.metrics, &outcome);
                let acknowledgement = wire::append_events_response(outcome);
                if to_caller.send(Ok(acknowledgement)).await.is_err() {
                    return Ok(());
                }
            }
            if let Some(failure) = failure {
                return Err(status::of_store(&failure));
            }
            match next {
                Next::Wait => {}
                Next::Closed => return Ok(()),
                Next::Failed(status) => return Err(status),
            }
        }
    }
}

/// Requests that are appended together.
struct Batch {
    requests: Vec<pb::AppendEventsRequest>,
    /// What follows the batch.
    next: Next,
}

/// What follows a batch in its stream.
enum Next {
    /// More requests may follow.
    Wait,
    /// The caller has closed the stream.
    Closed,
    /// The stream has failed.
    Failed(Status),
}

/// Counts the outcomes of a stream's events. They are logged when the stream has ended.
#[derive(Default)]
struct StreamCounts {
    appended: u64,
    duplicates: u64,
    replaced: u64,
    purged: u64,
    refused: u64,
}

impl StreamCounts {
    fn add(&mut self, metrics: &Metrics, outcome: &Outcome) {
        match outcome {
            Outcome::Appended { duplicate: true, .. } => {
                self.duplicates += 1;
                metrics.appended("duplicate");
            }
            Outcome::Appended { replaced: true, .. } => {
                self.replaced += 1;
                metrics.appended("replaced");
            }
            Outcome::Appended { redacted, unreadable, state_given, .. } => {
                self.appended += 1;
                metrics.appended(match (state_given, unreadable, redacted) {
                    (true, ..) => "state",
                    (false, Some(_), _) => "unreadable",
                    (false, None, true) => "redacted",
                    (false, None, false) => "new",
                });
            }
            Outcome::Purged { .. } => {
                self.purged += 1;
                metrics.appended("purged");
            }
            Outcome::Refused { refusal, .. } => {
                self.refused += 1;
                metrics.refused(wire::refusal_name(refusal));
            }
        }
    }
}

impl Drop for StreamCounts {
    fn drop(&mut self) {
        let Self { appended, duplicates, replaced, purged, refused } = *self;
        let span = Span::current();
        span.record("appended", appended).record("duplicates", duplicates);
        span.record("replaced", replaced).record("purged", purged).record("refused", refused);
    }
}

/// The next request of a stream, checked; `None` at the end of the stream.
async fn next(
    requests: &mut Streaming<pb::AppendEventsRequest>,
) -> Result<Option<pb::AppendEventsRequest>, Status> {
    let request = requests.message().await?;
    request.as_ref().map_or(Ok(()), wire::check_append)?;
    Ok(request)
}

/// Takes the requests that have arrived, beginning with `first`.
fn take_batch(
    first: pb::AppendEventsRequest,
    requests: &mut Streaming<pb::AppendEventsRequest>,
) -> Batch {
    let mut bytes = first.pdu.len();
    let mut batch = Batch { requests: vec![first], next: Next::Wait };
    while batch.requests.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
        match requests.message().now_or_never() {
            None => break,
            Some(Ok(Some(request))) => {
                bytes += request.pdu.len();
                batch.requests.push(request);
            }
            Some(Ok(None)) => {
                batch.next = Next::Closed;
                break;
            }
            Some(Err(status)) => {
                batch.next = Next::Failed(status);
                break;
            }
        }
    }
    batch
}

fn append_all(cx: &Context, requests: &[pb::AppendEventsRequest]) -> BatchOutcome {
    let events: Vec<NewEvent<'_>> = requests.iter().map(wire::new_event).collect();
    ingest::append_all(cx, &events)
}
