//! The RPC `ExplainAccess`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::{InvalidArgument, NotFound};

use crate::support::failures::{Row, Stage, assert_failures, requester, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let good = pb::ExplainAccessRequest {
        room_id: stage.room_id(),
        event_id: stage.last(),
        requester: requester("two.example"),
    };
    let room = pb::ExplainAccessRequest { room_id: unknown_room(), ..good.clone() };
    let event = pb::ExplainAccessRequest { event_id: "$none".to_owned(), ..good.clone() };
    let server = pb::ExplainAccessRequest { requester: requester(""), ..good };
    let rows = [
        Row::new(room, NotFound, "ROOM_UNKNOWN"),
        Row::new(event, NotFound, "EVENT_UNKNOWN"),
        Row::new(server, InvalidArgument, "SERVER_NAME_INVALID"),
    ];
    let history = &stage.clients.history;
    assert_failures(rows, async |request| history.clone().explain_access(request).await).await;
}
