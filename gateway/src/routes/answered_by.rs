//! Says in every response of the Matrix API who has answered: the history service or the homeserver. Only
//! with a fallback, and not in 403s: the homeserver answers for rooms that are not held, so the header
//! would tell servers that are not in a room whether the homeserver is.

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode},
    middleware::Next,
    response::Response,
};

use crate::{
    fallback::{FallbackReason, X_BACKSCROLL},
    observe,
};

/// The response is the homeserver's: an extension of the response.
#[derive(Clone, Copy, Debug)]
struct ByHomeserver(FallbackReason);

/// Notes that a response is the homeserver's.
pub(super) fn homeserver(mut response: Response, reason: FallbackReason) -> Response {
    response.extensions_mut().insert(ByHomeserver(reason));
    response
}

/// The middleware: adds the header to the response unless it is a 403, and the same to the log. Without
/// [`ByHomeserver`], the gateway has answered: from the history service, or with an error.
pub(crate) async fn answered_by(request: Request, next: Next) -> Response {
    let is_matrix = request.uri().path().starts_with("/_matrix/");
    let mut response = next.run(request).await;
    if !is_matrix {
        return response;
    }
    let value = match response.extensions().get() {
        Some(ByHomeserver(reason)) => {
            observe::answered_by("synapse", Some(reason.word()));
            HeaderValue::try_from(format!("synapse;reason={}", reason.word()))
        }
        None => {
            observe::answered_by("history", None);
            Ok(HeaderValue::from_static("history"))
        }
    };
    // A server that is not in a room would learn whether the homeserver is.
    let is_told = response.status() != StatusCode::FORBIDDEN;
    if is_told && let Ok(value) = value {
        response.headers_mut().insert(X_BACKSCROLL, value);
    }
    response
}
