//! A feeder that appends events and stores its cursor, while the service is killed again and again.
//! The cursor is never newer than what is stored, and never older than the last acknowledged one.

use std::time::Duration;

use backscroll::proto::v1::{
    self as pb, feed_request::Report, feed_response::Notice,
    feeder_service_client::FeederServiceClient,
};
use backscroll_testkit::{Event, Random, Room, random::Rounds, within_async};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::Channel};

use crate::support::{
    clients::{Clients, request},
    failures::ALICE,
    process::Process,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// The events of the room: more than are appended.
const EVENTS: usize = 6_000;
/// The events that are appended before the cursor is stored.
const BATCH: usize = 5;

fn room() -> (Room, Vec<Event>) {
    let (room, create) = Room::new("10", ALICE);
    let mut events = vec![create];
    while events.len() < EVENTS {
        events.push(room.message(ALICE, "a message").after(events.last()).finish());
    }
    (room, events)
}

async fn cursor(feeder: &mut FeederServiceClient<Channel>) -> usize {
    let request = pb::GetCursorRequest { feeder_name: "synapse".to_owned() };
    let cursor = feeder.get_cursor(request).await.unwrap().into_inner().cursor;
    String::from_utf8(cursor.to_vec()).unwrap().parse().unwrap_or(0)
}

/// Appends events from the cursor on until the service is gone. Sends each cursor that was
/// acknowledged.
async fn feed(
    mut clients: Clients,
    mut feeder: FeederServiceClient<Channel>,
    appends: Vec<pb::AppendEventsRequest>,
    acknowledged: mpsc::UnboundedSender<usize>,
) -> Result<(), Status> {
    let (reports, requests) = mpsc::channel(1);
    let report = Report::Started(pb::FeederStarted { feeder_name: "synapse".to_owned() });
    reports.send(pb::FeedRequest { report: Some(report) }).await.unwrap();
    let mut notices = feeder.feed(ReceiverStream::new(requests)).await?.into_inner();
    let first = notices.message().await?.and_then(|it| it.notice);
    let Some(Notice::LeaseGranted(granted)) = first else { panic!("no lease: {first:?}") };
    let mut next = cursor(&mut feeder).await;
    loop {
        let batch = appends[next..next + BATCH].to_vec();
        let responses = clients.append(batch).await?;
        assert_eq!(responses.len(), BATCH);
        next += BATCH;
        let mut put = Request::new(pb::PutCursorRequest {
            feeder_name: "synapse".to_owned(),
            cursor: next.to_string().into(),
        });
        put.metadata_mut().insert("backscroll-lease", granted.lease_id.parse().unwrap());
        feeder.put_cursor(put).await?;
        acknowledged.send(next).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_never_newer_than_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (room, events) = room();
    let appends: Vec<_> = events.iter().map(|it| request(&room, &it.pdu)).collect();
    let Rounds { count, seed } = Rounds::of("FEEDER_KILLED", 5);
    let mut random = Random::new(seed);
    let mut last = 0;
    for _ in 0..count {
        let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
        let clients = Clients::connect(&service).await;
        let feeder = FeederServiceClient::connect(service.url()).await.unwrap();
        let (acknowledged, mut seen) = mpsc::unbounded_channel();
        let feeding = tokio::spawn(feed(clients, feeder, appends.clone(), acknowledged));
        let target = last + BATCH * (1 + random.index(60));
        within_async(PATIENCE, "cursors are stored", async {
            while last < target {
                last = seen.recv().await.expect("the feeder goes on until the kill");
            }
        })
        .await;
        service.kill();
        let ended = within_async(PATIENCE, "the feeder notices the kill", feeding).await.unwrap();
        ended.unwrap_err();
        while let Ok(more) = seen.try_recv() {
            last = more;
        }

        let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
        let mut clients = Clients::connect(&service).await;
        let mut feeder = FeederServiceClient::connect(service.url()).await.unwrap();
        let stored = cursor(&mut feeder).await;
        let (_, held) = clients.room(&room.room_id).await.unwrap();
        assert!(last <= stored, "the cursor {last} was acknowledged, but {stored} is stored");
        assert!(stored <= held.len(), "the cursor is {stored}, but {} events are held", held.len());
        for (event, held) in events.iter().zip(&held) {
            assert_eq!(event.event_id, held.event_id);
        }
        last = stored;
        service.kill();
    }
}
