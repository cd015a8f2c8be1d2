//! Builds response bodies. The PDUs of a response are the bytes that the history service sent: they are
//! neither parsed nor copied.

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

use crate::server_name::ServerName;

/// The response of `/backfill`, `{"origin":…,"origin_server_ts":…,"pdus":[…]}`, around a JSON array
/// of PDUs.
pub(crate) fn backfill(server_name: &ServerName, now_ms: u64, pdus: Bytes) -> Response {
    // A server name has no characters that JSON would escape.
    let head = format!(r#"{{"origin":"{server_name}","origin_server_ts":{now_ms},"pdus":"#);
    enclosed(head.into(), pdus)
}

/// The response of `/get_missing_events`, `{"events":[…]}`, around a JSON array of PDUs.
pub(crate) fn get_missing_events(pdus: Bytes) -> Response {
    enclosed(Bytes::from_static(br#"{"events":"#), pdus)
}

/// A JSON object: its head, the value of its last member, and the closing brace.
fn enclosed(head: Bytes, value: Bytes) -> Response {
    respond(Body::new(Pieces([head, value, Bytes::from_static(b"}")])))
}

/// A body of several pieces. They are written one after another without being copied together.
struct Pieces([Bytes; 3]);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.iter_mut().find(|piece| !piece.is_empty());
        Poll::Ready(next.map(|piece| Ok(Frame::data(mem::take(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let bytes: usize = self.0.iter().map(Bytes::len).sum();
        SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// A response with a JSON body, which no cache may store.
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
