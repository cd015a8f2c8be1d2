//! Events into a running service, through the door that homeservers use.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backscroll::proto::v1::{
    self as pb, append_events_response::Outcome, ingest_service_client::IngestServiceClient,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Channel;

use crate::{
    builder::Room,
    rooms::{self, Made, Plan},
};

/// Unacknowledged events while a room is only to be loaded.
const MANY_IN_FLIGHT: usize = 1_000;

/// An event of a room, accepted, to be appended.
fn request(room: &Room, pdu: &str) -> pb::AppendEventsRequest {
    pb::AppendEventsRequest {
        room_id: room.room_id.clone(),
        room_version: room.version.as_str().to_owned(),
        pdu: pdu.to_owned().into(),
        ..pb::AppendEventsRequest::default()
    }
}

/// Makes a room and loads it while it is made.
pub(crate) async fn load(url: &str, plan: Plan, seed: u64) -> anyhow::Result<Made> {
    let (made_events, events) = mpsc::channel(MANY_IN_FLIGHT);
    let making = tokio::task::spawn_blocking(move || {
        rooms::make(&plan, seed, &mut |room, pdu| {
            // Nobody takes them only when loading has failed, which is said there.
            drop(made_events.blocking_send(request(room, pdu)));
        })
    });
    append(url, ReceiverStream::new(events), MANY_IN_FLIGHT).await?;
    Ok(making.await?)
}

/// Makes a room, and only then times how long its events take.
pub(crate) async fn timed(
    url: &str,
    plan: Plan,
    in_flight: usize,
) -> anyhow::Result<(Made, Duration)> {
    let (made, requests) = tokio::task::spawn_blocking(move || {
        let mut requests = Vec::new();
        let made = rooms::make(&plan, 1, &mut |room, pdu| requests.push(request(room, pdu)));
        (made, requests)
    })
    .await?;
    let start = Instant::now();
    append(url, tokio_stream::iter(requests), in_flight).await?;
    Ok((made, start.elapsed()))
}

/// Appends events on one stream, never more unacknowledged than `in_flight`.
async fn append(
    url: &str,
    events: impl Stream<Item = pb::AppendEventsRequest> + Send + 'static,
    in_flight: usize,
) -> anyhow::Result<()> {
    let mut client = IngestServiceClient::new(connect(url).await?);
    let places = Arc::new(Semaphore::new(in_flight));
    let free = Arc::clone(&places);
    let paced = events.then(move |event| {
        let free = Arc::clone(&free);
        async move {
            free.acquire().await.expect("never closed").forget();
            event
        }
    });
    let mut answers = client.append_events(paced).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let appended = matches!(answer.outcome, Some(Outcome::Appended(_)));
        ensure!(appended, "an event was refused: {:?}", answer.outcome);
        places.add_permits(1);
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
