//! The endpoints, one file for each. They authenticate the request, ask the history service, and
//! build the response. Invalid parameters are passed on to the history service, which decides about
//! access first. With a fallback, the homeserver answers what the history service cannot.

pub(crate) mod answered_by;
pub(crate) mod backfill;
pub(crate) mod get_missing_events;
pub(crate) mod health;
pub(crate) mod pass_through;
mod serving;

use std::sync::Arc;

use axum::{
    extract::{RawPathParams, rejection::RawPathParamsRejection},
    http::request::Parts,
};
use ruma::RoomId;

use crate::{
    admission::{self, AdmittedRequest, Caller},
    client_address::ClientAddress,
    context::Context,
    error::ApiError,
    proto::v1::Requester,
    server_name::ServerName,
    x_matrix::{Claim, Content, SignedRequest, Unauthenticated},
};

/// The outcome of a successful authentication.
struct Authenticated {
    /// The server that has signed the request.
    origin: ServerName,
    admitted: AdmittedRequest,
}

/// Why a request is not admitted.
enum NotAdmitted {
    /// The keys of its origin cannot be had, so that its signature cannot be verified.
    NoKey(Unauthenticated),
    /// It is refused for another reason.
    Refused(ApiError),
}

impl From<Unauthenticated> for NotAdmitted {
    fn from(error: Unauthenticated) -> Self {
        match error {
            Unauthenticated::NoKey { .. } => Self::NoKey(error),
            other => Self::Refused(other.into()),
        }
    }
}

/// Authenticates a request that has been received completely, and counts it as such.
async fn authenticate(
    cx: &Context,
    request: &Parts,
    content: &Content,
) -> Result<Authenticated, NotAdmitted> {
    let claim: Option<&Arc<Result<Claim, Unauthenticated>>> = request.extensions.get();
    let claim = match claim.map(|it| &**it) {
        Some(Ok(claim)) => claim,
        Some(Err(error)) => return Err(error.clone().into()),
        None => return Err(Unauthenticated::NoHeader.into()),
    };
    let signed = SignedRequest {
        destination: &cx.server_name,
        method: &request.method,
        target: request.uri.path_and_query().map_or("/", |target| target.as_str()),
        content,
    };
    let caller: Option<&Caller> = request.extensions.get();
    let client = caller.map_or(ClientAddress::UNKNOWN, |caller| caller.address);
    claim.verify(signed, &cx.keys, client).await?;
    let admitted = admission::authenticated(&cx.limits, request).map_err(NotAdmitted::Refused)?;
    Ok(Authenticated { origin: claim.origin.clone(), admitted })
}

/// The `{room_id}` of the path, percent-decoded.
fn room_id(params: &Result<RawPathParams, RawPathParamsRejection>) -> Result<String, ApiError> {
    let params = params.as_ref().map_err(|_not_utf8| ApiError::bad_room_id())?;
    let room_id = params.iter().find(|(name, _)| *name == "room_id");
    let (_, room_id) = room_id.ok_or_else(ApiError::bad_room_id)?;
    RoomId::parse(room_id).map_err(|_| ApiError::bad_room_id())?;
    Ok(room_id.to_owned())
}

/// The server that asks and the server that is asked, for the history service.
fn requester(origin: &ServerName, cx: &Context) -> Requester {
    Requester { origin: origin.to_string(), destination: cx.server_name.to_string() }
}
