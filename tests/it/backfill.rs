//! The RPC `Backfill`: its errors and its bounds.

use backscroll::proto::v1 as pb;
use tonic::Code::{InvalidArgument, NotFound, PermissionDenied};

use crate::support::failures::{Row, Stage, assert_failures, requester, unknown_room};

/// A request that succeeds.
fn good(stage: &Stage) -> pb::BackfillRequest {
    pb::BackfillRequest {
        feeder_bounds: None,
        room_id: stage.room_id(),
        requester: requester("two.example"),
        event_ids: vec![stage.last()],
        limit: Some(5),
        omit_event_ids: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let good = || good(&stage);
    let three = || requester("three.example");
    let unknown = || pb::BackfillRequest { room_id: unknown_room(), ..good() };
    let history = &stage.clients.history;
    history.clone().backfill(good()).await.unwrap();
    let rows = [
        Row::new(unknown(), PermissionDenied, "ROOM_NOT_HELD"),
        Row::new(
            pb::BackfillRequest { requester: three(), ..good() },
            PermissionDenied,
            "NOT_ALLOWED",
        ),
        Row::new(pb::BackfillRequest { requester: None, ..unknown() }, NotFound, "ROOM_UNKNOWN"),
        Row::new(
            pb::BackfillRequest { event_ids: vec![], ..good() },
            InvalidArgument,
            "EVENT_IDS_MISSING",
        ),
        Row::new(pb::BackfillRequest { limit: None, ..good() }, InvalidArgument, "LIMIT_MISSING"),
        Row::new(
            pb::BackfillRequest { limit: Some(0), ..good() },
            InvalidArgument,
            "LIMIT_INVALID",
        ),
        Row::new(
            pb::BackfillRequest { requester: requester(""), ..good() },
            InvalidArgument,
            "SERVER_NAME_INVALID",
        ),
        // A server without access learns nothing about the other errors of its request.
        Row::new(
            pb::BackfillRequest { requester: three(), event_ids: vec![], limit: Some(0), ..good() },
            PermissionDenied,
            "NOT_ALLOWED",
        ),
    ];
    assert_failures(rows, async |request| history.clone().backfill(request).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_has_at_most_100_events() {
    let stage = Stage::start().await;
    let request = pb::BackfillRequest {
        event_ids: vec![stage.last(); 10_000],
        limit: Some(u32::MAX),
        ..good(&stage)
    };
    let response = stage.clients.history.clone().backfill(request).await.unwrap();
    assert_eq!(response.into_inner().event_ids.len(), 100);
}
