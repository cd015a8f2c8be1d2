//! The RPC `GetState`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound};

use crate::support::{
    clients::request,
    failures::{BOB, Row, Stage, assert_failures, unknown_room},
};

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    // Its predecessor is not stored, so the state after it is unknown.
    let behind_gap = stage.room.message(BOB, "behind a gap").after_id("$never").finish();
    let append = vec![request(&stage.room, &behind_gap.pdu)];
    stage.clients.clone().append(append).await.unwrap();
    let after = |event_id: &str| pb::GetStateRequest {
        room_id: stage.room_id(),
        event_id: event_id.to_owned(),
        ..Default::default()
    };
    let unknown = pb::GetStateRequest { room_id: unknown_room(), ..Default::default() };
    let token = pb::GetStateRequest { page_token: "x".to_owned(), ..after(&stage.last()) };
    let rows = [
        Row::new(unknown, NotFound, "ROOM_UNKNOWN"),
        Row::new(after("$none"), NotFound, "EVENT_UNKNOWN"),
        Row::new(after(&behind_gap.event_id), FailedPrecondition, "STATE_UNKNOWN"),
        Row::new(token, InvalidArgument, "PAGE_TOKEN_INVALID"),
    ];
    let history = &stage.clients.history;
    assert_failures(rows, async |request| history.clone().get_state(request).await).await;
}
