//! Reads the body of a request, which is limited in size and time and must not be encoded. The request
//! cannot be authenticated before the whole body is received, so the received bytes count as those of
//! an unauthenticated request.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{
        HeaderValue,
        header::{CONTENT_ENCODING, EXPECT},
        request::Parts,
    },
};
use http_body_util::BodyExt as _;
use ruma::CanonicalJsonValue;
use tokio::time;

use crate::{admission::PendingRequest, error::ApiError};

/// How many bytes are read and dropped after a refusal. A client that sends its whole body before it
/// reads then gets the response instead of a reset connection.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;
/// How long they are read.
const MAX_DISCARDING: Duration = Duration::from_secs(5);

/// Reads the whole body of a request: at most `max_bytes`, within `timeout`.
pub(crate) async fn read(
    request: &Parts,
    body: Body,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let pending = request.extensions.get();
    let encodings = request.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let mut encodings = encodings.filter(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    let refusal = if encodings.next().is_some() {
        Some(ApiError::body_encoded())
    } else if usize::try_from(body.size_hint().lower()).map_or(true, |size| size > max_bytes) {
        // By Content-Length: nothing has been read.
        Some(ApiError::body_too_large(max_bytes))
    } else {
        None
    };
    if let Some(refusal) = refusal {
        // Reading would ask a client that waits for `100 Continue` to send.
        if !request.headers.contains_key(EXPECT) {
            discard(body, pending);
        }
        return Err(refusal);
    }
    match time::timeout(timeout, collect(body, max_bytes, pending)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(ApiError::body_too_slow()),
    }
}

async fn collect(
    mut body: Body,
    max_bytes: usize,
    pending: Option<&PendingRequest>,
) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ApiError::body_broken()) };
        // Trailers are ignored.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max_bytes {
            drop(whole);
            discard(body, pending);
            return Err(ApiError::body_too_large(max_bytes));
        }
        if let Some(pending) = pending {
            pending.received(data.len())?;
        }
        whole.extend_from_slice(&data);
    }
    if let Some(pending) = pending {
        pending.received(parsed_bytes(&whole))?;
    }
    Ok(whole.into())
}

/// The most memory that JSON takes once it is parsed, beyond its own length.
fn parsed_bytes(json: &[u8]) -> usize {
    let begins_value = |byte: &&u8| matches!(byte, b'[' | b'{' | b',' | b':');
    json.iter().filter(begins_value).count().saturating_mul(size_of::<CanonicalJsonValue>())
}

/// Reads and drops the rest of a body in the background, until the request is evicted.
fn discard(mut body: Body, pending: Option<&PendingRequest>) {
    let Some(pending) = pending.cloned() else { return };
    tokio::spawn(time::timeout(MAX_DISCARDING, async move {
        let discarding = async {
            let mut discarded = 0;
            while let Some(Ok(frame)) = body.frame().await {
                discarded += frame.data_ref().map_or(0, Bytes::len);
                if discarded > MAX_DISCARDED_BYTES {
                    break;
                }
            }
        };
        tokio::select! {
            () = discarding => {}
            () = pending.evicted() => {}
        }
    }));
}
