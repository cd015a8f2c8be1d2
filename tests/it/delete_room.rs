//! The RPC `DeleteRoom`: its errors. `deletions.rs` tests what a deletion does.

use backscroll::proto::v1 as pb;
use tonic::Code::NotFound;

use crate::support::failures::{Row, Stage, all, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_room_is_not_found() {
    let stage = Stage::start().await;
    let request = pb::DeleteRoomRequest { room_id: unknown_room(), may_return: true };
    let row = Row::new(request, NotFound, "ROOM_UNKNOWN");
    let ingest = &stage.clients.ingest;
    let call = async |request| all(ingest.clone().delete_room(request).await).await;
    assert_failures([row], call).await;
}
