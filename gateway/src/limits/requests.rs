//! Before authentication: requests of everybody, of one address, and of a server whose queue is full
//! anyway. Refused here, a request costs next to nothing; probes do not come this way.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{
    Limited, Limiter,
    addresses::{Peer, client},
    counts::{Counted, Full},
};
use crate::{context::Context, error::ApiError, x_matrix};

/// How long until places are free again: an answer takes milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The middleware.
pub(crate) async fn admit(
    State(cx): State<Arc<Context>>,
    request: Request,
    next: Next,
) -> Response {
    let response = match count(&cx, &request) {
        Ok(_counted) => next.run(request).await,
        Err(limited) => ApiError::from(limited).into_response(),
    };
    // Not counted any more: who waits to hear that there is no place takes none.
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        cx.limits.refusals.turn().await;
    }
    response
}

fn count(cx: &Context, request: &Request) -> Result<Counted, Limited> {
    let limits = &cx.limits;
    let peer = request.extensions().get::<Peer>();
    let address = peer.map(|Peer(peer)| client(&limits.options, *peer, request.headers()));
    let counted = limits.requests.count(address).map_err(|full| {
        let limiter = match full {
            Full::All => Limiter::Requests,
            Full::Address => Limiter::RequestsPerAddress,
        };
        Limited { limiter, retry_after: RETRY_AFTER }
    })?;
    // Whoever it is in truth: it would be refused after its signature has been verified, which is
    // most of what a refusal costs. Nobody can fill a queue but the server whose queue it is.
    match x_matrix::claimed_origin(request.headers()) {
        Some(origin) => limits.servers.has_room(&origin).map(|()| counted),
        None => Ok(counted),
    }
}
