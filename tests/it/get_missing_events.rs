//! The RPC `GetMissingEvents`: its errors and its bounds.

use backscroll::proto::v1 as pb;
use tonic::Code::PermissionDenied;

use crate::support::failures::{Row, Stage, assert_failures, requester, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_room_is_not_allowed() {
    let stage = Stage::start().await;
    let request = pb::GetMissingEventsRequest {
        room_id: unknown_room(),
        requester: requester("two.example"),
        ..pb::GetMissingEventsRequest::default()
    };
    let row = Row::new(request, PermissionDenied, "ROOM_NOT_HELD");
    let history = &stage.clients.history;
    assert_failures([row], async |it| history.clone().get_missing_events(it).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_has_at_most_20_events() {
    let stage = Stage::start().await;
    let request = pb::GetMissingEventsRequest {
        feeder_bounds: None,
        room_id: stage.room_id(),
        requester: requester("two.example"),
        earliest_events: vec!["$none".to_owned(); 10_000],
        latest_events: vec![stage.last(); 10_000],
        limit: Some(u32::MAX),
        min_depth: 0,
        omit_event_ids: false,
    };
    let response = stage.clients.history.clone().get_missing_events(request).await.unwrap();
    assert_eq!(response.into_inner().event_ids.len(), 20);
}
