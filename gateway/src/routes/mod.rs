//! The endpoints, one file each: who asks, what for, and what of the answer goes out. Faults in
//! the parameters are passed on to the history service, which decides about access first.

pub(crate) mod backfill;
pub(crate) mod get_missing_events;
pub(crate) mod health;

use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use ruma::RoomId;

use crate::{
    context::Context,
    error::ApiError,
    limits::{self, Admitted},
    proto::v1::Requester,
    server_name::ServerName,
    x_matrix::{Authenticator, Content},
};

/// Who asks, once the request has come whole; and the place that it takes from then on.
async fn authenticate(
    cx: &Context,
    request: &Parts,
    content: &Content,
) -> Result<(ServerName, Admitted), ApiError> {
    let origin = cx.authenticator.authenticate(request, content).await?;
    Ok((origin, limits::authenticated(cx, request)?))
}

/// The room id in a path `/_matrix/federation/v1/{endpoint}/{room_id}`, percent-decoded.
fn room_id(path: &str) -> Result<String, ApiError> {
    let encoded = path.split('/').nth(5).unwrap_or_default();
    let room_id = percent_decode_str(encoded).decode_utf8().map_err(|_| ApiError::bad_room_id())?;
    RoomId::parse(&*room_id).map_err(|_| ApiError::bad_room_id())?;
    Ok(room_id.into_owned())
}

fn requester(origin: &ServerName, us: &Authenticator) -> Requester {
    Requester { origin: origin.to_string(), destination: us.server_name.to_string() }
}
