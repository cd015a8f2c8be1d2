//! Applies the limits to HTTP requests. Until a request is authenticated it has a share of what is
//! set aside for unauthenticated requests, and is evicted if it is among the oldest of the clients
//! with the most. Once it has been received completely and its signature is valid, it counts among
//! authenticated requests. `/healthz` and `/readyz` are not limited.

mod forwarded;
mod hold;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Version, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::hold::{AnswerHold, StreamedAnswer, take_hold};
use crate::{
    client_address::ClientAddress,
    context::Context,
    error::ApiError,
    limiter::Limiter,
    limits::{
        Attempt, CountGuard, EvictionHandle, FAILURES_RETRY_AFTER, Full, Limited, Limits, Permit,
        Protection, Share,
    },
    server_name::ServerName,
    x_matrix::{Claim, Unauthenticated},
};

/// The client of a request: an extension of every request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) address: ClientAddress,
    /// The other end of the connection: the client, or a proxy.
    pub(crate) peer: IpAddr,
    pub(crate) connection: Arc<Share<ClientAddress>>,
    /// Ends the request and its answer.
    pub(crate) eviction: EvictionHandle,
    /// Counts as a failure unless the request is authenticated.
    pub(crate) attempt: Arc<Attempt>,
}

/// A request that is not authenticated yet: an extension of every limited request.
#[derive(Clone, Debug)]
pub(crate) struct PendingRequest {
    share: Arc<Share<ClientAddress>>,
    evicted: CancellationToken,
}

impl PendingRequest {
    /// Counts bytes of the body that have been received.
    pub(crate) fn received(&self, bytes: usize) -> Result<(), ApiError> {
        self.share.grow(bytes).map_err(|Full| ApiError::evicted())
    }

    /// Completes when the request is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

/// An authenticated request, which counts until this is dropped.
#[derive(Debug)]
pub(crate) struct AdmittedRequest {
    _counted: CountGuard,
    connection: Option<Protection<ClientAddress>>,
}

/// The address that a request was sent from: that of the connection, or the one that a trusted proxy
/// names.
pub(crate) fn client_address(limits: &Limits, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
    forwarded::client(|address| limits.is_trusted(address), peer, headers).into()
}

/// The `X-Forwarded-For` header for the next server: the addresses from the client to the peer of the
/// connection, without those that the client itself wrote.
pub(crate) fn forwarded_for(limits: &Limits, caller: &Caller, headers: &HeaderMap) -> String {
    forwarded::forwarded_for(|address| limits.is_trusted(address), caller.peer, headers)
}

/// The middleware: reads what the request claims about its origin, and limits it until it is
/// authenticated.
pub(crate) async fn admit(
    State(cx): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let claim = Claim::read(request.headers(), &cx.server_name);
    let caller = request.extensions().get().cloned();
    let response = match begin(&cx.limits, caller.as_ref(), &claim) {
        Ok(pending) => {
            let version = request.version();
            request.extensions_mut().insert(pending.clone());
            request.extensions_mut().insert(Arc::new(claim));
            tokio::select! {
                biased;
                response = next.run(request) => response,
                () = pending.evicted() => evicted(version, caller.as_ref()),
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    // The refused request holds no permit while it waits for its turn.
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        cx.limits.refusal_turn().await;
    }
    response
}

fn begin(
    limits: &Limits,
    caller: Option<&Caller>,
    claim: &Result<Claim, Unauthenticated>,
) -> Result<PendingRequest, ApiError> {
    let address = caller.map(|it| it.address);
    if address.is_some_and(|address| !limits.accepts_requests_from(address)) {
        let limiter = Limiter::Failures;
        return Err(Limited { limiter, retry_after: FAILURES_RETRY_AFTER }.into());
    }
    let evicted = CancellationToken::new();
    let share = limits.unauthenticated(address, EvictionHandle::new(evicted.clone()));
    let share = Arc::new(share.map_err(|Full| ApiError::evicted())?);
    // Overloaded limits refuse here already: verifying the signature is most of the cost of a
    // refusal. The origin is not verified yet, and need not be: only authenticated requests take all
    // permits, and only authenticated requests of a server fill its queue.
    drop(limits.request(address)?);
    if let Ok(claim) = claim {
        limits.servers.check_queue(&claim.origin)?;
    }
    Ok(PendingRequest { share, evicted })
}

/// Ends an evicted request: in HTTP/2 its stream is reset, in HTTP/1.1 it is answered with 408.
fn evicted(version: Version, caller: Option<&Caller>) -> Response {
    if version == Version::HTTP_2
        && let Some(caller) = caller
    {
        caller.eviction.evict();
    }
    let mut response = ApiError::evicted().into_response();
    if version != Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts a request among the authenticated ones. It must have been received completely, and its
/// signature verified.
pub(crate) fn authenticated(limits: &Limits, request: &Parts) -> Result<AdmittedRequest, ApiError> {
    let caller: Option<&Caller> = request.extensions.get();
    if let Some(caller) = caller {
        caller.attempt.succeeded();
    }
    let counted = limits.request(caller.map(|it| it.address))?;
    let pending: Option<&PendingRequest> = request.extensions.get();
    if pending.is_some_and(|it| !it.share.end()) {
        return Err(ApiError::evicted());
    }
    // `None` if the connection was evicted: it is being closed.
    let connection = caller.and_then(|it| it.connection.protect());
    Ok(AdmittedRequest { _counted: counted, connection })
}

impl AdmittedRequest {
    /// Turns the outcome into a response, which holds the permit until it has been written.
    pub(crate) fn respond(
        self,
        origin: ServerName,
        permit: Permit,
        answer: Result<Response, ApiError>,
    ) -> Response {
        let hold = AnswerHold::new(origin, permit, self.connection);
        hold.attach_to(answer.into_response())
    }
}
