//! What a caller gets: the specification's envelopes around PDUs that stay the bytes they are, and
//! mostly where they are in memory: what came from the history service goes out.

use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, header},
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use crate::{proto::v1::Event, server_name::ServerName};

/// The PDUs of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pdus<'a> {
    /// The end of the answer as one text, and how many PDUs are in it.
    Json(&'a Bytes, u32),
    /// One by one, as services answer that do not know of the other.
    Events(&'a [Event]),
}

impl<'a> Pdus<'a> {
    /// Whichever the service has answered with.
    pub(crate) fn new(events: &'a [Event], (json, count): (&'a Bytes, u32)) -> Self {
        if json.is_empty() { Self::Events(events) } else { Self::Json(json, count) }
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Json(_, count) => usize::try_from(*count).unwrap_or(usize::MAX),
            Self::Events(events) => events.len(),
        }
    }

    /// `"member":[…]}`
    fn end(&self, member: &str) -> Bytes {
        const TAIL: &[u8] = b"]}";
        let events = match self {
            Self::Json(json, _) => return (*json).clone(),
            Self::Events(events) => events,
        };
        let pdus: usize = events.iter().map(|event| event.pdu.len() + 1).sum();
        let mut end = format!(r#""{member}":["#).into_bytes();
        end.reserve_exact(pdus + TAIL.len());
        for (nth, event) in events.iter().enumerate() {
            if nth > 0 {
                end.push(b',');
            }
            end.extend_from_slice(&event.pdu);
        }
        end.extend_from_slice(TAIL);
        end.into()
    }
}

/// `{"origin":…,"origin_server_ts":…,"pdus":[…]}`
pub(crate) fn backfill(server_name: &ServerName, now_ms: u64, pdus: &Pdus<'_>) -> Response {
    // A server name holds nothing that JSON would escape.
    let head = format!(r#"{{"origin":"{server_name}","origin_server_ts":{now_ms},"#);
    respond(Body::new(TwoParts(head.into(), pdus.end("pdus"))))
}

/// `{"events":[…]}`
pub(crate) fn missing_events(pdus: &Pdus<'_>) -> Response {
    respond(Body::new(TwoParts(Bytes::from_static(b"{"), pdus.end("events"))))
}

/// A body of two pieces, the latter of which is not empty: both go out at once.
struct TwoParts(Bytes, Bytes);

impl HttpBody for TwoParts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self(first, second) = &mut *self;
        let next = if first.is_empty() { second } else { first };
        let next = mem::take(next);
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty() && self.1.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = self.0.len() + self.1.len();
        SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// A response of these bytes, which are JSON and for nobody but the asker.
pub(crate) fn json(body: Vec<u8>) -> Response {
    respond(Body::from(body))
}

fn respond(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
