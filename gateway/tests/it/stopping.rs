//! Stopping: requests under way are finished, and idle connections do not delay the end.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    Stage,
    client::{self, Ask},
    until, within,
};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";

#[tokio::test]
async fn a_request_under_way_is_finished() {
    let stage = Stage::start().await;
    let hold = stage.history.hold();
    let request = Ask::new("GET", TARGET).signed_by(&stage.peer).bytes();
    let asking = tokio::spawn({
        let address = stage.address;
        async move { client::send(address, &request).await }
    });
    hold.arrived().await;

    stage.stop.cancel();
    // No connection is accepted once the listener is closed.
    until("closed", async || TcpStream::connect(stage.address).await.is_err()).await;
    assert!(!stage.serving.is_finished());
    hold.release_one();

    assert_eq!(asking.await.unwrap().status, 200);
    within("the end", stage.serving).await.unwrap();
}

#[tokio::test]
async fn while_it_gives_notice_it_is_not_ready_but_answers() {
    let stage = Stage::start_with(|options| {
        options.shutdown_notice = Duration::from_hours(1);
    })
    .await;
    assert_eq!(stage.send(Ask::new("GET", "/readyz")).await.status, 200);
    stage.stop.cancel();
    let is_stopping = async || stage.send(Ask::new("GET", "/readyz")).await.status == 503;
    until("not ready", is_stopping).await;
    assert_eq!(stage.get(TARGET).await.status, 200);
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
    stage.serving.abort();
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    // Longer than any wait of this test: idle connections must not be waited for.
    let hour = Duration::from_secs(3_600);
    let stage = Stage::start_with(|options| options.drain_timeout = hour).await;
    // One without a request, and one after its first request.
    let mut fresh = TcpStream::connect(stage.address).await.unwrap();
    let mut kept = TcpStream::connect(stage.address).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    kept.readable().await.unwrap();

    stage.stop.cancel();
    within("the end", stage.serving).await.unwrap();
    assert!(client::read(&mut fresh).await.is_none());
    assert_eq!(client::read(&mut kept).await.unwrap().status, 200);
}

#[tokio::test]
async fn unfinished_requests_are_cut_off() {
    let stage = Stage::start_with(|options| {
        options.drain_timeout = Duration::from_millis(50);
    })
    .await;
    let hold = stage.history.hold();
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(&Ask::new("GET", TARGET).signed_by(&stage.peer).bytes()).await.unwrap();
    hold.arrived().await;
    stage.stop.cancel();
    within("the end", stage.serving).await.unwrap();
    assert!(client::read(&mut stream).await.is_none());
}
