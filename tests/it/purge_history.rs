//! The RPC `PurgeHistory`: its errors. `purge.rs` tests what a purge does.

use backscroll::proto::v1 as pb;
use tonic::Code::NotFound;

use crate::support::failures::{Row, Stage, all, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let room = pb::PurgeHistoryRequest {
        may_return: false,
        room_id: unknown_room(),
        event_id: stage.last(),
    };
    let event = pb::PurgeHistoryRequest {
        may_return: false,
        room_id: stage.room_id(),
        event_id: "$none".to_owned(),
    };
    let rows =
        [Row::new(room, NotFound, "ROOM_UNKNOWN"), Row::new(event, NotFound, "EVENT_UNKNOWN")];
    let ingest = &stage.clients.ingest;
    let call = async |request| all(ingest.clone().purge_history(request).await).await;
    assert_failures(rows, call).await;
}
