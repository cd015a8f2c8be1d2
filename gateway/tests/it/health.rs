//! `/healthz` and `/readyz`.

use crate::support::{Stage, client::Ask, until};

async fn status(stage: &Stage, path: &str) -> u16 {
    stage.send(Ask::new("GET", path)).await.status
}

#[tokio::test]
async fn ready_while_the_history_service_serves() {
    let stage = Stage::start().await;
    assert_eq!(status(&stage, "/healthz").await, 200);
    assert_eq!(status(&stage, "/readyz").await, 200);

    stage.history.set_serving(false).await;
    let answer = stage.send(Ask::new("GET", "/readyz")).await;
    assert_eq!(answer.refusal(), (503, "M_UNKNOWN".to_owned()));
    assert_eq!(status(&stage, "/healthz").await, 200);

    stage.history.set_serving(true).await;
    assert_eq!(status(&stage, "/readyz").await, 200);
    assert_eq!(stage.send(Ask::new("HEAD", "/readyz")).await.status, 200);
}

#[tokio::test]
async fn not_ready_while_the_history_service_is_away() {
    let stage = Stage::start_with(|options| {
        // No program listens on port 1.
        options.history = "http://127.0.0.1:1".parse::<axum::http::Uri>().unwrap().into();
    })
    .await;
    assert_eq!(status(&stage, "/readyz").await, 503);
    assert_eq!(status(&stage, "/healthz").await, 200);
}

#[tokio::test]
async fn ready_by_the_history_services_own_name_only() {
    let stage = Stage::start().await;
    // tonic reports SERVING for the empty name from the start.
    stage.history.health.clone().clear_service_status("backscroll.history.v1.HistoryService").await;
    assert_eq!(status(&stage, "/readyz").await, 503);
}

#[tokio::test]
async fn a_history_service_that_goes_away_is_noticed() {
    let stage = Stage::start().await;
    assert_eq!(status(&stage, "/readyz").await, 200);
    stage.history.stop();
    until("not ready", async || status(&stage, "/readyz").await == 503).await;
    assert_eq!(status(&stage, "/healthz").await, 200);
}
