//! How many requests the homeserver gets at the same time.

use std::time::Duration;

use axum::http::Uri;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinHandle};

use super::TARGET;
use crate::support::{
    Beside,
    client::{self, Answer, Ask},
    history::refusal,
    homeserver::{Reply, response},
    peer::Peer,
    until,
};

fn asking(beside: &Beside, peer: &Peer, nth: usize) -> JoinHandle<Answer> {
    let address = beside.stage.address;
    let bytes = Ask::new("GET", &format!("{TARGET}&x={nth}")).signed_by(peer).bytes();
    tokio::spawn(async move { client::send(address, &bytes).await })
}

#[tokio::test]
async fn a_server_has_a_quarter_and_others_wait() {
    let beside = Beside::start_with(|options, _| {
        options.history = Uri::from_static("http://127.0.0.1:1").into();
        options.limits.fallback_concurrency = 4;
    })
    .await;
    let Beside { stage, homeserver, .. } = &beside;
    let other = Peer::new("other.example", 2);
    let held = homeserver.hold();
    let first = asking(&beside, &stage.peer, 0);
    homeserver.holds(1).await;
    let waiting: Vec<_> = (1..4).map(|nth| asking(&beside, &stage.peer, nth)).collect();
    let others = asking(&beside, &other, 9);
    homeserver.holds(2).await;
    let targets: Vec<_> = homeserver.arrived().iter().map(|it| it.target().to_owned()).collect();
    assert_eq!(targets, [format!("{TARGET}&x=0"), format!("{TARGET}&x=9")]);
    held.add_permits(2);
    for answer in [first, others] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    // The others follow, one at a time.
    homeserver.holds(1).await;
    held.add_permits(9);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().by(), "synapse;reason=history_away");
    }
    assert_eq!(homeserver.most_under_way(), 2);
}

/// A permit is free again when the answer has been written, not before.
#[tokio::test]
async fn a_client_that_does_not_read_keeps_its_permit() {
    let beside = Beside::start_with(|options, _| {
        options.limits.fallback_concurrency = 1;
        options.limits.server_queue_timeout = Duration::from_millis(50);
    })
    .await;
    let Beside { stage, homeserver, .. } = &beside;
    stage.history.set_not_final(true);
    homeserver.reply(Reply::Large(100 << 20));
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(&Ask::new("GET", TARGET).signed_by(&stage.peer).bytes()).await.unwrap();
    homeserver.holds(1).await;
    homeserver.arrived();
    homeserver.reply(response(200, "", "{}"));
    let other = Peer::new("other.example", 2);
    assert_eq!(asking(&beside, &other, 1).await.unwrap().status, 429);
    assert_eq!(homeserver.arrived(), []);
    drop(stream);
    until("a permit", async || asking(&beside, &other, 1).await.unwrap().status == 200).await;
}

/// The history service has its own permits: it answers while the homeserver is slow.
#[tokio::test]
async fn a_slow_homeserver_does_not_slow_the_history_service() {
    let beside = Beside::start_with(|options, _| {
        options.limits.concurrency = 1;
        options.limits.fallback_concurrency = 1;
    })
    .await;
    let Beside { stage, homeserver, .. } = &beside;
    let _held = homeserver.hold();
    stage.history.respond(|| Err(refusal(tonic::Code::PermissionDenied, "ROOM_NOT_HELD")));
    let slow: Vec<_> = (0..3).map(|nth| asking(&beside, &stage.peer, nth)).collect();
    homeserver.holds(1).await;
    until("all were asked", async || stage.history.count() == 3).await;
    stage.history.respond(|| Ok(Vec::new()));
    let answer = asking(&beside, &Peer::new("other.example", 2), 7).await.unwrap();
    assert_eq!((answer.status, answer.by()), (200, "history"));
    slow.into_iter().for_each(|it| it.abort());
}

#[tokio::test]
async fn requests_that_wait_for_too_long_are_refused() {
    let beside = Beside::start_with(|options, _| {
        options.limits.fallback_concurrency = 1;
        options.limits.server_queue_timeout = Duration::from_millis(50);
    })
    .await;
    let Beside { stage, homeserver, .. } = &beside;
    let _held = homeserver.hold();
    stage.history.set_not_final(true);
    let first = asking(&beside, &Peer::new("other.example", 2), 0);
    homeserver.holds(1).await;
    let answer = stage.get(TARGET).await;
    assert_eq!((answer.refusal().0, answer.by()), (429, "history"));
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("by the homeserver"), "{error}");
    first.abort();
}
