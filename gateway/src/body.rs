//! Reading a request's body: bounded in size and in time, and only as it is.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_ENCODING, EXPECT},
    },
};
use http_body_util::BodyExt as _;
use tokio::time;

use crate::error::ApiError;

/// How much, and for how long, is read and thrown away after a refusal, so that a caller who
/// sends its whole body before it reads gets to see the answer instead of a reset connection.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARDING: Duration = Duration::from_secs(10);

/// The body, whole: at most so many bytes, in so much time.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    (max_bytes, deadline): (usize, Duration),
) -> Result<Bytes, ApiError> {
    let encodings = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let mut encodings = encodings.filter(|encoding| !encoding.eq_ignore_ascii_case(b"identity"));
    let refusal = if encodings.next().is_some() {
        Some(ApiError::body_encoded())
    } else if usize::try_from(body.size_hint().lower()).map_or(true, |size| size > max_bytes) {
        // Content-Length says so; nothing has been read.
        Some(ApiError::body_too_large(max_bytes))
    } else {
        None
    };
    if let Some(refusal) = refusal {
        // Reading would invite a caller who waits for `100 Continue` to send.
        if !headers.contains_key(EXPECT) {
            discard(body);
        }
        return Err(refusal);
    }
    match time::timeout(deadline, collect(body, max_bytes)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(ApiError::body_too_slow()),
    }
}

async fn collect(mut body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ApiError::body_broken()) };
        // Trailers are nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max_bytes {
            discard(body);
            return Err(ApiError::body_too_large(max_bytes));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

fn discard(mut body: Body) {
    tokio::spawn(time::timeout(MAX_DISCARDING, async move {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > MAX_DISCARDED_BYTES {
                break;
            }
        }
    }));
}
