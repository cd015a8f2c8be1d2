//! The RPC `SetUserErased`: its errors.

use backscroll::proto::v1 as pb;
use tonic::Code::InvalidArgument;

use crate::support::failures::{Row, Stage, assert_failures};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_user_id_is_refused() {
    let stage = Stage::start().await;
    let request = pb::SetUserErasedRequest { user_id: "nobody".to_owned(), erased: true };
    let row = Row::new(request, InvalidArgument, "USER_ID_INVALID");
    let ingest = &stage.clients.ingest;
    assert_failures([row], async |request| ingest.clone().set_user_erased(request).await).await;
}
