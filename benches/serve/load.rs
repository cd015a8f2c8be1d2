//! Appends events to a running service through `AppendEvents`, as homeservers do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backscroll::proto::v1::{
    self as pb, append_events_response::Outcome, ingest_service_client::IngestServiceClient,
};
use backscroll_testkit::Room;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Channel;

use crate::rooms::{self, Made, Plan};

/// Unacknowledged events while a room is loaded without a measurement.
const MANY_IN_FLIGHT: usize = 1_000;

/// A room that was loaded, and the time that took.
pub(crate) struct Timed {
    pub(crate) made: Made,
    pub(crate) elapsed: Duration,
}

/// The request that appends an event as accepted.
fn request(room: &Room, pdu: &str) -> pb::AppendEventsRequest {
    pb::AppendEventsRequest {
        room_id: room.room_id.clone(),
        room_version: room.version.as_str().to_owned(),
        pdu: pdu.to_owned().into(),
        ..pb::AppendEventsRequest::default()
    }
}

/// Makes a room and loads its events while it makes them.
pub(crate) async fn load(url: &str, plan: Plan, seed: u64) -> anyhow::Result<Made> {
    let (sender, events) = mpsc::channel(MANY_IN_FLIGHT);
    let making = tokio::task::spawn_blocking(move || {
        rooms::make(&plan, seed, &mut |room, pdu| {
            // The receiver is gone only when loading has failed, and `append` returns that error.
            drop(sender.blocking_send(request(room, pdu)));
        })
    });
    append(url, ReceiverStream::new(events), MANY_IN_FLIGHT).await?;
    Ok(making.await?)
}

/// Makes a whole room, then loads it and measures the time.
pub(crate) async fn timed(url: &str, plan: Plan, in_flight: usize) -> anyhow::Result<Timed> {
    let mut requests = Vec::new();
    let (made, requests) = tokio::task::spawn_blocking(move || {
        let made = rooms::make(&plan, 1, &mut |room, pdu| requests.push(request(room, pdu)));
        (made, requests)
    })
    .await?;
    let start = Instant::now();
    append(url, tokio_stream::iter(requests), in_flight).await?;
    Ok(Timed { made, elapsed: start.elapsed() })
}

/// Appends events on one stream, with at most `in_flight` unacknowledged.
async fn append(
    url: &str,
    events: impl Stream<Item = pb::AppendEventsRequest> + Send + 'static,
    in_flight: usize,
) -> anyhow::Result<()> {
    let mut client = IngestServiceClient::new(connect(url).await?);
    let permits = Arc::new(Semaphore::new(in_flight));
    let free = Arc::clone(&permits);
    let paced = events.then(move |event| {
        let free = Arc::clone(&free);
        async move {
            free.acquire().await.expect("the semaphore is never closed").forget();
            event
        }
    });
    let mut responses = client.append_events(paced).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let appended = matches!(response.outcome, Some(Outcome::Appended(_)));
        ensure!(appended, "an event was refused: {:?}", response.outcome);
        permits.add_permits(1);
    }
    Ok(())
}

pub(crate) async fn connect(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20);
    endpoint.connect().await.context("the history service does not answer")
}
