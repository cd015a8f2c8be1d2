//! One `AppendEvents` stream: what is there is taken together, appended, flushed once, and only
//! then acknowledged, in the order in which it came.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Span;

use super::{executor::Executor, progress::Sender, status, wire};
use crate::{
    context::Context,
    ingest::{self, BatchOutcome, NewEvent, Outcome},
    metrics::Metrics,
    proto::v1 as pb,
};

/// Most events that share a flush: enough to make flushing cheap, few enough that the first of
/// them does not wait long.
const MAX_TOGETHER: usize = 256;
/// Most bytes of PDUs that are taken together.
const MAX_BYTES_TOGETHER: usize = 4 << 20;
/// Acknowledgements that may wait for a slow reader before we stop taking events from it.
pub(super) const MAX_UNREAD: usize = 512;

/// Appends the events of a stream, and acknowledges each when it is on disk.
pub(super) async fn append_events(
    cx: &Arc<Context>,
    executor: &Executor,
    mut requests: Streaming<pb::AppendEventsRequest>,
    to_caller: &Sender<pb::AppendEventsResponse>,
    stopping: &CancellationToken,
) -> Result<(), Status> {
    let mut counts = Counts::default();
    loop {
        let first = tokio::select! {
            biased;
            () = stopping.cancelled() => return Err(status::stopping()),
            first = next(&mut requests) => first?,
        };
        let Some(first) = first else { return Ok(()) };
        let (together, end) = take_what_is_there(first, &mut requests);
        let appending = Arc::clone(cx);
        let append = move || append_all(&appending, &together);
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
        match end {
            End::More => {}
            End::Closed => return Ok(()),
            End::Failed(status) => return Err(status),
        }
    }
}

/// What comes after the requests taken together.
enum End {
    More,
    Closed,
    Failed(Status),
}

/// What became of a stream's events; the log's line says it when the stream has ended.
#[derive(Default)]
struct Counts {
    appended: u64,
    duplicates: u64,
    purged: u64,
    refused: u64,
}

impl Counts {
    fn add(&mut self, metrics: &Metrics, outcome: &Outcome) {
        match outcome {
            Outcome::Appended { duplicate: true, .. } => {
                self.duplicates += 1;
                metrics.appended("duplicate");
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

impl Drop for Counts {
    fn drop(&mut self) {
        let Self { appended, duplicates, purged, refused } = *self;
        let span = Span::current();
        span.record("appended", appended).record("duplicates", duplicates);
        span.record("purged", purged).record("refused", refused);
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

fn take_what_is_there(
    first: pb::AppendEventsRequest,
    requests: &mut Streaming<pb::AppendEventsRequest>,
) -> (Vec<pb::AppendEventsRequest>, End) {
    let mut bytes = first.pdu.len();
    let mut together = vec![first];
    while together.len() < MAX_TOGETHER && bytes < MAX_BYTES_TOGETHER {
        match next(requests).now_or_never() {
            None => break,
            Some(Ok(Some(next))) => {
                bytes += next.pdu.len();
                together.push(next);
            }
            Some(Ok(None)) => return (together, End::Closed),
            Some(Err(status)) => return (together, End::Failed(status)),
        }
    }
    (together, End::More)
}

fn append_all(cx: &Context, requests: &[pb::AppendEventsRequest]) -> BatchOutcome {
    let events: Vec<NewEvent<'_>> = requests.iter().map(wire::new_event).collect();
    ingest::append_all(cx, &events)
}
