//! A feeder that stays connected and reports nothing: its stream ends after ten seconds, and nothing that
//! it left running changes anything more. The test moves the clock of both sides.

use std::{sync::Arc, time::Duration};

use backscroll::{
    context::feeder::LEASE_TIME,
    proto::v1::{self as pb, feeder_service_client::FeederServiceClient},
    server,
    store::Options,
};
use backscroll_testkit::Room;
use tokio::{net::TcpListener, time};
use tonic::{
    Code::{Aborted, FailedPrecondition},
    transport::Channel,
};

use crate::{
    feeder::Feed,
    support::{
        clients::{Clients, reason, request},
        failures::{ALICE, all},
    },
};

/// Moves the clock on.
async fn pass(duration: Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}

// The clock can be moved only in a runtime of one thread.
#[tokio::test]
async fn a_silent_feeder_loses_the_lease_and_writes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let cx = server::open(&Options::small(dir.path())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stopped = std::future::pending();
    let serving = server::serve(Arc::clone(&cx), listener, Duration::ZERO, stopped);
    let serving = tokio::spawn(serving);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let client = FeederServiceClient::new(channel.clone());
    let mut clients = Clients::over(channel);
    let name = async || {
        let feeder = client.clone().get_feeder(pb::GetFeederRequest {}).await.unwrap();
        feeder.into_inner().feeder_name
    };

    let (room, create) = Room::new("10", ALICE);
    let joined = room.member(ALICE, ALICE, "join").after([&create]).finish();
    let append = |pdu: &str| tokio_stream::iter([request(&room, pdu)]);
    let mut silent = Feed::start_over(client.clone()).await.unwrap();
    let first = silent.with_lease(append(&create.pdu));
    all(clients.ingest.append_events(first).await).await.unwrap();

    let almost = LEASE_TIME.checked_sub(Duration::from_secs(1)).unwrap();
    pass(almost).await;
    // This is a report, and it has been taken when the service has noted it.
    silent.begin_tick().await;
    pass(almost).await;
    assert_eq!(name().await, "synapse");
    let second = Feed::start_over(client.clone()).await.err().unwrap();
    assert_eq!(reason(&second), (FailedPrecondition, "FEEDER_ACTIVE".to_owned()));

    pass(Duration::from_secs(2)).await;
    let lost = (Aborted, "LEASE_LOST".to_owned());
    assert_eq!(reason(&silent.notice().await.unwrap_err()), lost);
    assert_eq!(name().await, "");
    let next = Feed::start_over(client.clone()).await.unwrap();
    let late = silent.with_lease(append(&joined.pdu));
    let refused = all(clients.ingest.append_events(late).await).await.unwrap_err();
    assert_eq!(reason(&refused), lost);
    assert_eq!(clients.room(&room.room_id).await.unwrap().1.len(), 1);
    let allowed = next.with_lease(append(&joined.pdu));
    all(clients.ingest.append_events(allowed).await).await.unwrap();
    assert_eq!(clients.room(&room.room_id).await.unwrap().1.len(), 2);
    serving.abort();
}
