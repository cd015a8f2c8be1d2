//! Before authentication: requests of everybody, and of one address, at the same time. Refused
//! here, a request costs next to nothing; probes do not come this way.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{
    Limited, Limiter,
    addresses::{Peer, client},
    counts::Full,
};
use crate::{context::Context, error::ApiError};

/// How long until places are free again: an answer takes milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The middleware.
pub(crate) async fn admit(
    State(cx): State<Arc<Context>>,
    request: Request,
    next: Next,
) -> Response {
    let limits = &cx.limits;
    let peer = request.extensions().get::<Peer>();
    let address = peer.map(|Peer(peer)| client(&limits.options, *peer, request.headers()));
    let _counted = match limits.requests.count(address) {
        Ok(counted) => counted,
        Err(full) => {
            let limiter = match full {
                Full::All => Limiter::Requests,
                Full::Address => Limiter::RequestsPerAddress,
            };
            let limited = Limited { limiter, retry_after: RETRY_AFTER };
            return ApiError::from(limited).into_response();
        }
    };
    next.run(request).await
}
