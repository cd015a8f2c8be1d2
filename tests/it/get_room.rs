//! The RPC `GetRoom`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::NotFound;

use crate::support::failures::{Row, Stage, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_room_is_not_found() {
    let stage = Stage::start().await;
    let row = Row::new(pb::GetRoomRequest { room_id: unknown_room() }, NotFound, "ROOM_UNKNOWN");
    let history = &stage.clients.history;
    assert_failures([row], async |request| history.clone().get_room(request).await).await;
}
