//! The RPC `ListPurgedEvents`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::{InvalidArgument, NotFound};

use crate::support::failures::{INVALID_TOKENS, Row, Stage, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let unknown = pb::ListPurgedEventsRequest { room_id: unknown_room(), ..Default::default() };
    let mut rows = vec![Row::new(unknown, NotFound, "ROOM_UNKNOWN")];
    for token in INVALID_TOKENS {
        let request = pb::ListPurgedEventsRequest {
            room_id: stage.room_id(),
            page_token: token.to_owned(),
            ..Default::default()
        };
        rows.push(Row::new(request, InvalidArgument, "PAGE_TOKEN_INVALID"));
    }
    let history = &stage.clients.history;
    assert_failures(rows, async |it| history.clone().list_purged_events(it).await).await;
}
