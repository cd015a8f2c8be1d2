//! `POST /_matrix/federation/v1/get_missing_events/{roomId}`
//! <https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use tokio::time::Instant;

use super::{authenticate, requester, room_id};
use crate::{
    answer, body,
    context::Context,
    error::ApiError,
    json, observe,
    proto::v1::{GetMissingEventsRequest, GetMissingEventsResponse},
    x_matrix::Content,
};

pub(crate) async fn get_missing_events(
    State(cx): State<Arc<Context>>,
    request: Request,
) -> Result<Response, ApiError> {
    observe::endpoint("get_missing_events");
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts, body, (cx.max_body_bytes, cx.body_timeout)).await?;
    // Before the signature, which covers the parsed body.
    let content = match &*bytes {
        [] => Content::Empty,
        bytes => Content::Json(json::parse(bytes)?),
    };
    let (origin, admitted) = authenticate(&cx, &parts, &content).await?;
    drop(bytes);
    let deadline = cx.deadline();
    let Body { earliest_events, latest_events, limit, min_depth } = Body::read(content)?;
    let room_id = room_id(parts.uri.path())?;
    observe::asked(&origin, &room_id);

    let place = cx.limits.servers.admit(&origin, deadline).await?;
    let question = GetMissingEventsRequest {
        room_id,
        requester: Some(requester(&origin, &cx.authenticator)),
        earliest_events,
        latest_events,
        limit,
        min_depth,
        omit_event_ids: true,
    };
    let answer = ask(&cx, &question, deadline).await;
    Ok(admitted.answer(origin, place, answer))
}

async fn ask(
    cx: &Context,
    question: &GetMissingEventsRequest,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let answer = cx.history.get_missing_events(question, deadline).await?;
    let GetMissingEventsResponse { pdus, forms, .. } = &*answer;

    Ok(observe::answered(forms.len(), answer::get_missing_events(pdus.clone())))
}

/// What the body says. Members that are missing or null have their defaults.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    earliest_events: Vec<String>,
    latest_events: Vec<String>,
    limit: Option<u32>,
    min_depth: i64,
}

impl Body {
    pub(crate) fn read(content: Content) -> Result<Self, ApiError> {
        let mut object = match content {
            Content::Absent | Content::Empty => return Ok(Self::default()),
            Content::Json(CanonicalJsonValue::Object(object)) => object,
            Content::Json(_) => return Err(ApiError::bad_json("The body is not a JSON object")),
        };
        Ok(Self {
            earliest_events: event_ids(&mut object, "earliest_events")?,
            latest_events: event_ids(&mut object, "latest_events")?,
            // Up to 2^53 - 1 in the JSON: what is too much for us is as good as the most we know.
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
