//! Events into a running service, through the door that homeservers use.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backscroll::proto::v1::{
    self as pb, append_events_response::Outcome, ingest_service_client::IngestServiceClient,
    key_service_client::KeyServiceClient,
};
use ed25519_dalek::{Signer as _, Verifier as _};
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

/// Lets the service check signatures from now on.
pub(crate) async fn publish_keys(url: &str) -> anyhow::Result<()> {
    let mut client = KeyServiceClient::new(connect(url).await?);
    for server in [rooms::OURS, rooms::ASKING] {
        let answer = rooms::key_answer(server).to_string().into();
        client.put_server_keys(pb::PutServerKeysRequest { answer }).await?;
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

/// How many signatures of a text as long as an event's all cores verify in a second.
pub(crate) fn verifications_per_second(for_so_long: Duration) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (key, text) = (rooms::signing_key(), vec![b'x'; 600]);
    let (signature, key) = (key.sign(&text), key.verifying_key());
    let verify = || {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < for_so_long {
            key.verify(&text, &signature).expect("it fits");
            count += 1;
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(verify)).collect();
        threads.into_iter().map(|it| it.join().expect("it does not panic")).sum()
    })
}
