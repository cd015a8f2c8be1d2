//! The handler of `KeyService`.

use std::sync::Arc;

use backscroll_matrix::{KeyAnswer, ServerName};
use tonic::{Request, Response, Status};

use super::{executor::Executor, now_ms, status, timeout::deadline};
use crate::{
    context::{Context, RememberedKeys},
    deadline::Deadline,
    proto::v1::{self as pb, ErrorReason, key_service_server::KeyService},
    store::FetchedKeys,
};

/// The largest key answer that is kept, in bytes. Usual ones have some 500 bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Handles the calls of `KeyService`.
pub struct KeyHandler {
    cx: Arc<Context>,
    executor: Executor,
}

impl KeyHandler {
    /// A handler that works on a context.
    #[must_use]
    pub fn new(cx: Arc<Context>, executor: Executor) -> Self {
        Self { cx, executor }
    }
}

#[tonic::async_trait]
impl KeyService for KeyHandler {
    async fn get_server_keys(
        &self,
        request: Request<pb::GetServerKeysRequest>,
    ) -> Result<Response<pb::GetServerKeysResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::GetServerKeysRequest { server_name } = request.into_inner();
        let cx = Arc::clone(&self.cx);
        let now_ms = now_ms();
        let read = self.executor.run(deadline, move |_| cx.server_keys(&server_name, now_ms));
        match read.await? {
            RememberedKeys::Valid(FetchedKeys { fetched_ts, answer }) => {
                let answer = answer.into();
                Ok(Response::new(pb::GetServerKeysResponse { answer, fetched_ts }))
            }
            RememberedKeys::Expired => {
                let text = "the keys of this server that are held are not valid any more";
                Err(status::refuse(ErrorReason::KeysExpired, text))
            }
            RememberedKeys::Unknown => {
                Err(status::refuse(ErrorReason::KeysUnknown, "no keys of this server are held"))
            }
        }
    }

    async fn put_server_keys(
        &self,
        request: Request<pb::PutServerKeysRequest>,
    ) -> Result<Response<pb::PutServerKeysResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::PutServerKeysRequest { answer, fetched_ts } = request.into_inner();
        let server_name = server_name(&answer)?;
        let now_ms = now_ms();
        let fetched_ts = if (1..now_ms).contains(&fetched_ts) { fetched_ts } else { now_ms };
        let fetched = FetchedKeys { fetched_ts, answer: answer.to_vec() };
        let cx = Arc::clone(&self.cx);
        let put = move |_: &Deadline| cx.put_server_keys(server_name.as_str(), &fetched, now_ms);
        self.executor.run(deadline, put).await?;
        Ok(Response::new(pb::PutServerKeysResponse {}))
    }
}

/// The name of the server whose keys an answer holds. Fails if the answer is invalid.
fn server_name(answer: &[u8]) -> Result<ServerName, Status> {
    let invalid = |fault: &str| status::refuse(ErrorReason::KeysInvalid, fault);
    if answer.len() > MAX_ANSWER_BYTES {
        return Err(invalid(&format!("the answer is larger than {MAX_ANSWER_BYTES} bytes")));
    }
    let keys = KeyAnswer::parse(answer).map_err(|fault| invalid(&fault.to_string()))?;
    let name: Result<ServerName, _> = keys.server_name.parse();
    name.map_err(|fault| invalid(&format!("`server_name`: {fault}")))
}
