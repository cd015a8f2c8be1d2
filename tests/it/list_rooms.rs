//! The RPC `ListRooms`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::InvalidArgument;

use crate::support::failures::{Row, Stage, assert_failures};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_page_token_is_refused() {
    let stage = Stage::start().await;
    let request = pb::ListRoomsRequest { page_size: 1, page_token: "x".to_owned() };
    let row = Row::new(request, InvalidArgument, "PAGE_TOKEN_INVALID");
    let history = &stage.clients.history;
    assert_failures([row], async |request| history.clone().list_rooms(request).await).await;
}
