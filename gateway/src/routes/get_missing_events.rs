//! `POST /_matrix/federation/v1/get_missing_events/{roomId}`
//! <https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>

use std::sync::Arc;

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    response::Response,
};
use backscroll_matrix::read_strict_json;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use super::{
    Authenticated, NotAdmitted, authenticate, requester, room_id,
    serving::{self, HistoryRequest, Question},
};
use crate::{
    body, context::Context, error::ApiError, observe, proto::v1::GetMissingEventsRequest,
    x_matrix::Content,
};

pub(crate) async fn get_missing_events(
    State(cx): State<Arc<Context>>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    observe::endpoint("get_missing_events");
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts, body, cx.max_body_bytes, cx.body_timeout).await?;
    // The signature covers the parsed body, so the body is parsed first.
    let content = match &*bytes {
        [] => Content::Empty,
        bytes => Content::Json(read_strict_json(bytes)?),
    };
    let forwarded = serving::forwarded(&cx, &parts, &bytes);
    drop(bytes);
    let room_id = room_id(&params);
    let authenticated = match authenticate(&cx, &parts, &content).await {
        Ok(authenticated) => authenticated,
        Err(NotAdmitted::Refused(error)) => return Err(error),
        Err(NotAdmitted::NoKey(error)) => {
            let is_well_formed = room_id.is_ok() && MissingEventsBody::read(content).is_ok();
            let forwarded = forwarded.filter(|_| is_well_formed);
            return serving::pass_on_unverified(&cx, &parts, forwarded, error).await;
        }
    };
    let Authenticated { origin, admitted } = authenticated;
    let deadline = cx.deadline();
    let MissingEventsBody { earliest_events, latest_events, limit, min_depth } =
        MissingEventsBody::read(content)?;
    let room_id = room_id?;
    observe::asked(&origin, &room_id);

    let permit = cx.limits.servers.admit(&origin, deadline).await?;
    let request = HistoryRequest::GetMissingEvents(GetMissingEventsRequest {
        room_id,
        requester: Some(requester(&origin, &cx)),
        earliest_events,
        latest_events,
        limit,
        min_depth,
        omit_event_ids: true,
        feeder_bounds: cx.fallback.as_ref().map(|it| it.bounds),
    });
    let question = Question { cx: &cx, origin, permit, admitted, deadline, request, forwarded };
    Ok(question.answer().await)
}

/// The parameters in the body. Members that are missing or null have their default values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MissingEventsBody {
    earliest_events: Vec<String>,
    latest_events: Vec<String>,
    limit: Option<u32>,
    min_depth: i64,
}

impl MissingEventsBody {
    pub(crate) fn read(content: Content) -> Result<Self, ApiError> {
        let mut object = match content {
            Content::Absent | Content::Empty => return Ok(Self::default()),
            Content::Json(CanonicalJsonValue::Object(object)) => object,
            Content::Json(_) => return Err(ApiError::bad_json("The body is not a JSON object")),
        };
        Ok(Self {
            earliest_events: event_ids(&mut object, "earliest_events")?,
            latest_events: event_ids(&mut object, "latest_events")?,
            // The JSON allows up to 2^53 - 1. The history service limits it anyway.
            limit: integer(&object, "limit")?
                .map(|limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX)),
            min_depth: integer(&object, "min_depth")?.map_or(0, |depth| depth.max(0)),
        })
    }
}

fn event_ids(object: &mut CanonicalJsonObject, member: &str) -> Result<Vec<String>, ApiError> {
    let malformed = || ApiError::bad_json(format!("`{member}` is not a list of event ids"));
    match object.remove(member) {
        None | Some(CanonicalJsonValue::Null) => Ok(Vec::new()),
        Some(CanonicalJsonValue::Array(items)) => {
            let ids = items.into_iter().map(|item| match item {
                CanonicalJsonValue::String(id) => Ok(id),
                _ => Err(malformed()),
            });
            ids.collect()
        }
        Some(_) => Err(malformed()),
    }
}

fn integer(object: &CanonicalJsonObject, member: &str) -> Result<Option<i64>, ApiError> {
    match object.get(member) {
        None | Some(CanonicalJsonValue::Null) => Ok(None),
        Some(CanonicalJsonValue::Integer(value)) => Ok(Some((*value).into())),
        Some(_) => Err(ApiError::bad_json(format!("`{member}` is not an integer"))),
    }
}
