//! What a caller gets: the specification's envelopes around PDUs that stay the bytes they are.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};

use crate::{proto::v1::Event, server_name::ServerName};

/// `{"origin":…,"origin_server_ts":…,"pdus":[…]}`
pub(crate) fn backfill(server_name: &ServerName, now_ms: u64, events: &[Event]) -> Response {
    // A server name holds nothing that JSON would escape.
    let head = format!(r#"{{"origin":"{server_name}","origin_server_ts":{now_ms},"pdus":["#);
    respond(head, events)
}

/// `{"events":[…]}`
pub(crate) fn missing_events(events: &[Event]) -> Response {
    respond(r#"{"events":["#.to_owned(), events)
}

/// One buffer, of the right size from the start.
fn respond(head: String, events: &[Event]) -> Response {
    const TAIL: &[u8] = b"]}";
    let pdus: usize = events.iter().map(|event| event.pdu.len() + 1).sum();
    let mut body = head.into_bytes();
    body.reserve_exact(pdus + TAIL.len());
    for (nth, event) in events.iter().enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&event.pdu);
    }
    body.extend_from_slice(TAIL);
    json(body)
}

/// A response of these bytes, which are JSON and for nobody but the asker.
pub(crate) fn json(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
