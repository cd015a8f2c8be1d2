//! Limits: which requests are refused, with which response, and which are not affected.

use std::time::Duration;

use futures_util::future;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinHandle};

use crate::support::{
    Stage,
    client::{self, Answer, Ask},
    history::Asked,
    peer::Peer,
    within,
};

fn target(nth: usize) -> String {
    format!("/_matrix/federation/v1/backfill/!r:us.example?v=$a{nth}&limit=1")
}

/// Sends a request in the background.
fn asking(stage: &Stage, ask: &Ask) -> JoinHandle<Answer> {
    let (address, bytes) = (stage.address, ask.bytes());
    tokio::spawn(async move { client::send(address, &bytes).await })
}

fn signed(nth: usize, peer: &Peer) -> Ask {
    Ask::new("GET", &target(nth)).signed_by(peer)
}

/// Checks a refusal: its text, and when to repeat the request.
fn assert_limited(answer: &Answer, text: &str) {
    assert_eq!(answer.refusal(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains(text), "{error}");
    let ms = answer.json()["retry_after_ms"].as_u64().unwrap();
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(ms >= 1_000 && seconds == ms.div_ceil(1_000), "{ms} {seconds}");
}

#[tokio::test]
async fn requests_of_all_servers() {
    let stage = Stage::start_with(|options| options.limits.max_requests = 2).await;
    let hold = stage.history.hold();
    let under_way = [0, 1].map(|nth| asking(&stage, &signed(nth, &stage.peer)));
    hold.arrived().await;
    hold.arrived().await;
    assert_limited(&stage.send(signed(2, &stage.peer)).await, "are being answered");
    // Unsigned requests are refused likewise, and probes are not limited.
    assert_limited(&stage.send(Ask::new("GET", &target(0))).await, "are being answered");
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
    assert_eq!(stage.send(Ask::new("GET", "/readyz")).await.status, 200);
    hold.release_all();
    for answer in under_way {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(stage.send(signed(3, &stage.peer)).await.status, 200);
}

#[tokio::test]
async fn requests_from_one_address_behind_a_proxy() {
    let stage = Stage::start_with(|options| {
        options.limits.max_per_address = 1;
        options.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let hold = stage.history.hold();
    let from = |nth, address: &str| signed(nth, &stage.peer).header("X-Forwarded-For", address);
    let under_way = asking(&stage, &from(0, "198.51.100.1"));
    hold.arrived().await;
    assert_limited(&stage.send(from(1, "198.51.100.1")).await, "from your address");
    assert_limited(&stage.send(from(1, "1.1.1.1, 198.51.100.1")).await, "from your address");
    // A request from another address reaches the history service.
    let other = asking(&stage, &from(2, "198.51.100.2"));
    hold.arrived().await;
    hold.release_all();
    assert_eq!((under_way.await.unwrap().status, other.await.unwrap().status), (200, 200));
}

/// An idle connection is closed for another one; one that waits for its answer is not.
#[tokio::test]
async fn connections_from_one_address() {
    let stage = Stage::start_with(|options| options.limits.max_per_address = 1).await;
    let mut first = TcpStream::connect(stage.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    first.readable().await.unwrap();
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
    assert_eq!(client::read(&mut first).await.unwrap().status, 200);

    let hold = stage.history.hold();
    let under_way = asking(&stage, &signed(0, &stage.peer));
    hold.arrived().await;
    let mut second = TcpStream::connect(stage.address).await.unwrap();
    assert!(client::read_bytes(&mut second).await.unwrap_or_default().is_empty());
    hold.release_one();
    assert_eq!(under_way.await.unwrap().status, 200);
}

#[tokio::test]
async fn one_server_is_refused_and_another_is_not() {
    let stage = Stage::start_with(|options| {
        options.limits.server_concurrency = 1;
        options.limits.server_queue = 1;
    })
    .await;
    let other = Peer::new("other.example", 2);
    let hold = stage.history.hold();
    let first = asking(&stage, &signed(0, &stage.peer));
    hold.arrived().await;
    // One of them waits, the other is refused at once.
    let [second, third] = [1, 2].map(|nth| asking(&stage, &signed(nth, &stage.peer)));
    let (refused, waiting) =
        within("a refusal", future::select(second, third)).await.factor_first();
    let waiting = waiting.into_inner();
    assert_limited(&refused.unwrap(), "of your server are waiting");
    // The signature is not verified for that; it is while the queue is not full.
    let unsigned =
        |peer: &Peer| Ask::new("GET", &target(3)).authorization(peer.header(&"A".repeat(86)));
    let answer = stage.send(unsigned(&stage.peer)).await;
    assert_limited(&answer, "of your server are waiting");
    assert_eq!(stage.send(unsigned(&other)).await.refusal().0, 401);
    let others = asking(&stage, &signed(0, &other));
    hold.arrived().await;
    assert_eq!(stage.history.asked().len(), 2, "the waiting request was passed on");
    hold.release_all();
    for answer in [first, waiting, others] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_request_that_leaves_the_queue_is_not_passed_on() {
    let stage = Stage::start_with(|options| options.limits.server_concurrency = 1).await;
    let hold = stage.history.hold();
    let first = asking(&stage, &signed(0, &stage.peer));
    hold.arrived().await;
    let mut leaving = TcpStream::connect(stage.address).await.unwrap();
    leaving.write_all(&signed(1, &stage.peer).bytes()).await.unwrap();
    drop(leaving);
    let last = asking(&stage, &signed(2, &stage.peer));
    hold.release_all();
    for answer in [first, last] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let asked = stage.history.asked().into_iter().map(|asked| match asked {
        Asked::Backfill(asked) => asked.event_ids,
        Asked::GetMissingEvents(_) => panic!("not sent by this test"),
    });
    assert_eq!(asked.collect::<Vec<_>>(), [["$a0"], ["$a2"]]);
}

#[tokio::test]
async fn requests_of_one_server_per_second() {
    let stage = Stage::start_with(|options| {
        options.limits.server_rate = 1;
        options.limits.server_burst = 2;
        options.limits.server_queue_timeout = Duration::from_millis(1);
    })
    .await;
    assert_eq!(stage.get(&target(0)).await.status, 200);
    assert_eq!(stage.get(&target(0)).await.status, 200);
    assert_limited(&stage.get(&target(0)).await, "in a short time");
}

#[tokio::test]
async fn the_same_question_is_passed_on_once() {
    let stage = Stage::start().await;
    let hold = stage.history.hold();
    stage.history.respond(|| Ok(vec![b"{}".to_vec()]));
    let first = asking(&stage, &signed(0, &stage.peer));
    hold.arrived().await;
    // The first client disconnects before there is an answer; the others still get it.
    let followers = [(); 5].map(|()| asking(&stage, &signed(0, &stage.peer)));
    let other = asking(&stage, &signed(0, &Peer::new("other.example", 2)));
    hold.arrived().await;
    first.abort();
    hold.release_all();
    for answer in followers {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(other.await.unwrap().status, 200);
}
