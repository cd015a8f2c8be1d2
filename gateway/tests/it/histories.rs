//! Several history services behind one gateway.

use axum::http::Uri;
use backscroll_gateway::history::HistoryOptions;
use tonic::Code;

use crate::support::{
    Stage,
    client::Ask,
    history::{FakeHistory, refusal, refusal_with},
};

fn url(history: &FakeHistory) -> Uri {
    format!("http://{}", history.address).parse().unwrap()
}

/// A gateway with two history services, and further ones at these URLs.
async fn with_another(more: &[&str]) -> (Stage, FakeHistory) {
    let other = FakeHistory::start().await;
    let mut urls = vec![url(&other)];
    urls.extend(more.iter().map(|it| it.parse::<Uri>().unwrap()));
    let stage = Stage::start_with(|options| options.history.urls.extend(urls)).await;
    (stage, other)
}

async fn ask(stage: &Stage, nth: usize) -> u16 {
    let target = format!("/_matrix/federation/v1/backfill/!r:us.example?v=$a{nth}&limit=1");
    stage.get(&target).await.status
}

#[tokio::test]
async fn questions_are_spread() {
    let (stage, other) = with_another(&[]).await;
    for nth in 0..10 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!((stage.history.asked().len(), other.asked().len()), (5, 5));
}

#[tokio::test]
async fn one_that_is_busy_gets_less() {
    let (stage, other) = with_another(&[]).await;
    let hold = other.hold();
    // Until one of them has arrived at the service that holds requests.
    let mut held = Vec::new();
    for nth in 0..2 {
        let (address, peer) = (stage.address, stage.peer.clone());
        let target = format!("/_matrix/federation/v1/backfill/!r:us.example?v=$b{nth}&limit=1");
        let bytes = Ask::new("GET", &target).signed_by(&peer).bytes();
        held.push(tokio::spawn(async move {
            crate::support::client::send(address, &bytes).await.status
        }));
    }
    hold.arrived().await;
    for nth in 0..10 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!(other.asked().len(), 1);
    hold.release_one();
    for status in held {
        assert_eq!(status.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn one_that_does_not_serve_is_left_out() {
    let (stage, other) = with_another(&[]).await;
    other.set_serving(false).await;
    // Checks the health of all; one is enough.
    assert_eq!(stage.send(Ask::new("GET", "/readyz")).await.status, 200);
    for nth in 0..10 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!((stage.history.asked().len(), other.asked().len()), (10, 0));
    stage.history.set_serving(false).await;
    assert_eq!(stage.send(Ask::new("GET", "/readyz")).await.status, 503);
    // It is asked if no other serves.
    assert_eq!(ask(&stage, 0).await, 200);
}

#[tokio::test]
async fn another_is_asked_when_one_is_away() {
    // No program listens on port 1.
    let (stage, other) = with_another(&["http://127.0.0.1:1"]).await;
    other.respond(|| Err(refusal(Code::Unavailable, "STOPPING")));
    for nth in 0..10 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!(stage.history.asked().len(), 10);
    // When none is available, two are asked, not more.
    stage.history.respond(|| Err(refusal(Code::Unavailable, "STOPPING")));
    other.asked();
    assert_eq!(ask(&stage, 0).await, 503);
    assert!(stage.history.asked().len() + other.asked().len() <= 2);
}

#[tokio::test]
async fn another_is_asked_when_one_does_not_know_the_feeder() {
    let (stage, other) = with_another(&[]).await;
    let away = || refusal_with(Code::Unavailable, "FEEDER_BEHIND", &[("feeder", "AWAY")]);
    other.respond(move || Err(away()));
    for nth in 0..10 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!(stage.history.asked().len(), 10);
    // When none knows the feeder, each is asked once.
    stage.history.respond(move || Err(away()));
    other.asked();
    assert_eq!(ask(&stage, 0).await, 503);
    assert!((1..=2).contains(&(stage.history.asked().len() + other.asked().len())));
}

#[tokio::test]
async fn nothing_else_is_asked_twice() {
    let (stage, other) = with_another(&[]).await;
    for code in [Code::Internal, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted] {
        for history in [&stage.history, &other] {
            history.respond(move || Err(refusal(code, "")));
        }
        assert_ne!(ask(&stage, 0).await, 200);
        assert_eq!(stage.history.asked().len() + other.asked().len(), 1, "{code:?}");
    }
}

#[tokio::test]
async fn a_name_stands_for_its_addresses() {
    let history = FakeHistory::start().await;
    let port = history.address.port();
    let stage = Stage::start_with(|options| {
        let url: Uri = format!("http://localhost:{port}").parse().unwrap();
        options.history = HistoryOptions::from(url);
    })
    .await;
    for nth in 0..4 {
        assert_eq!(ask(&stage, nth).await, 200);
    }
    assert_eq!(history.asked().len(), 4);
}
