//! A response of the homeserver, which is sent while it is received.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, Incoming, SizeHint};

use super::request::{X_BACKSCROLL, remove_connection_fields};

/// The response of the homeserver, as the client gets it: without the fields that are about one
/// connection only. `held` is dropped with the body.
pub(crate) fn passed_on<T>(response: hyper::Response<Incoming>, held: T) -> Response
where
    T: Send + Unpin + 'static,
{
    let (mut head, body) = response.into_parts();
    remove_connection_fields(&mut head.headers);
    head.headers.remove(X_BACKSCROLL);
    head.extensions.clear();
    Response::from_parts(head, Body::new(HomeserverBody { body, _held: held }))
}

/// The body of a response of the homeserver. Trailers are left out.
struct HomeserverBody<T> {
    body: Incoming,
    _held: T,
}

impl<T: Unpin> HttpBody for HomeserverBody<T> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_trailers() => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
