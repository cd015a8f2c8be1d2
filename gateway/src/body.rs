//! Reading a request's body: bounded in size and in time, and only as it is. Nobody is known before
//! it has come whole, so what has come of it counts as a stranger's.

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

use crate::{error::ApiError, limits::Stranger};

/// How much, and for how long, is read and thrown away after a refusal, so that a caller who
/// sends its whole body before it reads gets to see the answer instead of a reset connection.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;
const MAX_DISCARDING: Duration = Duration::from_secs(5);

/// The body of a request, whole: at most so many bytes, in so much time.
pub(crate) async fn read(
    request: &Parts,
    body: Body,
    (max_bytes, deadline): (usize, Duration),
) -> Result<Bytes, ApiError> {
    let stranger = request.extensions.get();
    let encodings = request.headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
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
        if !request.headers.contains_key(EXPECT) {
            discard(body, stranger);
        }
        return Err(refusal);
    }
    match time::timeout(deadline, collect(body, max_bytes, stranger)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(ApiError::body_too_slow()),
    }
}

async fn collect(
    mut body: Body,
    max_bytes: usize,
    stranger: Option<&Stranger>,
) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ApiError::body_broken()) };
        // Trailers are nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max_bytes {
            drop(whole);
            discard(body, stranger);
            return Err(ApiError::body_too_large(max_bytes));
        }
        if let Some(stranger) = stranger {
            stranger.read(data.len())?;
        }
        whole.extend_from_slice(&data);
    }
    if let Some(stranger) = stranger {
        stranger.read(parsed_bytes(&whole))?;
    }
    Ok(whole.into())
}

/// The most memory that a text takes once it is parsed, beyond its own length.
fn parsed_bytes(json: &[u8]) -> usize {
    let begins_value = |byte: &&u8| matches!(byte, b'[' | b'{' | b',' | b':');
    json.iter().filter(begins_value).count().saturating_mul(size_of::<CanonicalJsonValue>())
}

/// Goes on until the stranger has to give way to another.
fn discard(mut body: Body, stranger: Option<&Stranger>) {
    let Some(stranger) = stranger.cloned() else { return };
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
            () = stranger.gave_way() => {}
        }
    }));
}
