//! `GET /_matrix/federation/v1/backfill/{roomId}?v=…&v=…&limit=…`
//! <https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1backfillroomid>

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::{authenticate, requester, room_id};
use crate::{
    answer,
    context::Context,
    error::ApiError,
    observe,
    proto::v1::{BackfillRequest, BackfillResponse},
    x_matrix::Content,
};

pub(crate) async fn backfill(
    State(cx): State<Arc<Context>>,
    request: Request,
) -> Result<Response, ApiError> {
    observe::endpoint("backfill");
    // A body means nothing here, and nobody signs one.
    let (parts, body) = request.into_parts();
    drop(body);
    let (origin, admitted) = authenticate(&cx, &parts, &Content::Absent).await?;
    let room_id = room_id(parts.uri.path())?;
    observe::asked(&origin, &room_id);

    let deadline = cx.deadline();
    let place = cx.limits.servers.admit(&origin, deadline).await?;
    let Query { event_ids, limit } = Query::read(parts.uri.query().unwrap_or_default());
    let requester = Some(requester(&origin, &cx.authenticator));
    let question = BackfillRequest { room_id, requester, event_ids, limit, omit_event_ids: true };
    let answer = ask(&cx, &question, deadline).await;
    Ok(admitted.answer(origin, place, answer))
}

async fn ask(
    cx: &Context,
    question: &BackfillRequest,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let answer = cx.history.backfill(question, deadline).await?;
    let BackfillResponse { pdus, forms, .. } = &*answer;

    let us = &cx.authenticator;
    let answer = answer::backfill(&us.server_name, us.clock.now_ms(), pdus.clone());
    Ok(observe::answered(forms.len(), answer))
}

/// What the query says, faults included: the history service answers those, after it has decided
/// about access.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Every `v` that is not empty.
    pub(crate) event_ids: Vec<String>,
    /// The first `limit`; zero for one that is none.
    pub(crate) limit: Option<u32>,
}

impl Query {
    /// A `+` stays a `+`: event ids of room version 3 contain it, none contains a space.
    pub(crate) fn read(query: &str) -> Self {
        let mut read = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What is not UTF-8 becomes the id of no event.
            let value = percent_decode_str(value).decode_utf8_lossy();
            match &*percent_decode_str(name).decode_utf8_lossy() {
                "v" if !value.is_empty() => read.event_ids.push(value.into_owned()),
                "limit" if read.limit.is_none() => read.limit = Some(limit(&value)),
                _ => {}
            }
        }
        read
    }
}

/// Zero is what the history service refuses, whichever way the text was wrong.
fn limit(text: &str) -> u32 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if negative || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    // Nothing but too many digits is left to go wrong.
    digits.parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        for (text, expected) in [
            ("1", 1),
            ("+7", 7),
            ("007", 7),
            ("4294967295", u32::MAX),
            ("4294967296", u32::MAX),
            ("99999999999999999999", u32::MAX),
            ("0", 0),
            ("-0", 0),
            ("-1", 0),
            ("-99999999999999999999", 0),
            ("", 0),
            ("+", 0),
            ("-", 0),
            ("+-1", 0),
            ("abc", 0),
            ("1.0", 0),
            ("1e3", 0),
            ("0x10", 0),
            (" 1", 0),
            ("1 ", 0),
            ("１", 0),
            ("1_000", 0),
        ] {
            assert_eq!(limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn queries() {
        for (query, event_ids, limit) in [
            ("", &[][..], None),
            ("&&=&v&limit2=3", &[], None),
            ("v=$a&limit=5&v=$b&v=$a", &["$a", "$b", "$a"], Some(5)),
            ("v=&v=%24a%2Fb%2B%3D&limit=10", &["$a/b+="], Some(10)),
            ("v=$a+b/c=d", &["$a+b/c=d"], None),
            ("v=a%20b", &["a b"], None),
            ("%76=$a&%6Cimit=3", &["$a"], Some(3)),
            ("limit=1&limit=2", &[], Some(1)),
            ("limit=x&limit=2", &[], Some(0)),
            ("limit", &[], Some(0)),
            ("limit=%31%30", &[], Some(10)),
            ("limit=+4", &[], Some(4)),
            ("v=%ff", &["\u{fffd}"], None),
            ("v=%", &["%"], None),
            ("v=%zz", &["%zz"], None),
            ("V=$a&LIMIT=1", &[], None),
        ] {
            let event_ids = event_ids.iter().map(|id| (*id).to_owned()).collect();
            assert_eq!(Query::read(query), Query { event_ids, limit }, "{query}");
        }
    }
}
