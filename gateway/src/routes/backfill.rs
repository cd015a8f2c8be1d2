//! `GET /_matrix/federation/v1/backfill/{roomId}?v=…&v=…&limit=…`
//! <https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1backfillroomid>

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    response::Response,
};
use percent_encoding::percent_decode_str;

use super::{
    Authenticated, NotAdmitted, authenticate, requester, room_id,
    serving::{self, HistoryRequest, Question},
};
use crate::{
    context::Context, error::ApiError, observe, proto::v1::BackfillRequest, x_matrix::Content,
};

pub(crate) async fn backfill(
    State(cx): State<Arc<Context>>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    observe::endpoint("backfill");
    // A body has no meaning here, and is not signed.
    let (parts, body) = request.into_parts();
    drop(body);
    let forwarded = serving::forwarded(&cx, &parts, &Bytes::new());
    let room_id = room_id(&params);
    let authenticated = match authenticate(&cx, &parts, &Content::Absent).await {
        Ok(authenticated) => authenticated,
        Err(NotAdmitted::Refused(error)) => return Err(error),
        Err(NotAdmitted::NoKey(error)) => {
            let forwarded = forwarded.filter(|_| room_id.is_ok());
            return serving::pass_on_unverified(&cx, &parts, forwarded, error).await;
        }
    };
    let Authenticated { origin, admitted } = authenticated;
    let room_id = room_id?;
    observe::asked(&origin, &room_id);

    let deadline = cx.deadline();
    let permit = cx.limits.servers.admit(&origin, deadline).await?;
    let BackfillQuery { event_ids, limit } =
        BackfillQuery::read(parts.uri.query().unwrap_or_default());
    let requester = Some(requester(&origin, &cx));
    let request = HistoryRequest::Backfill(BackfillRequest {
        room_id,
        requester,
        event_ids,
        limit,
        omit_event_ids: true,
        feeder_bounds: cx.fallback.as_ref().map(|it| it.bounds),
    });
    let question = Question { cx: &cx, origin, permit, admitted, deadline, request, forwarded };
    Ok(question.answer().await)
}

/// The parameters of the query. Invalid ones are kept in a form that the history service refuses,
/// after it has decided about access.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BackfillQuery {
    /// All values of `v` that are not empty.
    pub(crate) event_ids: Vec<String>,
    /// The first `limit`; zero if it is not a number.
    pub(crate) limit: Option<u32>,
}

impl BackfillQuery {
    /// Reads a query string. A `+` is not a space: event ids of room version 3 contain it, and no
    /// event id contains a space.
    pub(crate) fn read(query: &str) -> Self {
        let mut read = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A value that is not UTF-8 becomes an id that no event has.
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

/// Parses a limit. Invalid text becomes zero, which the history service refuses.
fn limit(text: &str) -> u32 {
    let is_negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if is_negative || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    // Only an overflow can fail here.
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
            assert_eq!(BackfillQuery::read(query), BackfillQuery { event_ids, limit }, "{query}");
        }
    }
}
