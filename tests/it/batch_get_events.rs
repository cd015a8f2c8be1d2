//! The RPC `BatchGetEvents`: its errors and its bounds.

use backscroll::proto::v1 as pb;
use tonic::Code::NotFound;

use crate::support::failures::{Row, Stage, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_room_is_not_found() {
    let stage = Stage::start().await;
    let request = pb::BatchGetEventsRequest { room_id: unknown_room(), event_ids: vec![] };
    let row = Row::new(request, NotFound, "ROOM_UNKNOWN");
    let history = &stage.clients.history;
    assert_failures([row], async |request| history.clone().batch_get_events(request).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_looks_at_most_at_1000_ids() {
    let stage = Stage::start().await;
    let request = pb::BatchGetEventsRequest {
        room_id: stage.room_id(),
        event_ids: vec!["$none".to_owned(); 10_000],
    };
    let response = stage.clients.history.clone().batch_get_events(request).await.unwrap();
    assert_eq!(response.into_inner().missing_event_ids.len(), 1_000);
}
