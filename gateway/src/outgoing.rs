//! An answer on its way out. What it holds, a share of the answers that wait and its server's place,
//! is held by its bytes: it is given back when the last of them has been written to the connection,
//! or the answer is dropped.

use std::{
    fmt::Debug,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::Version,
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use crate::limits::{Caller, Held, Holds, Limits, Owner, Share};

/// What can be held.
pub(crate) trait Holding: Debug + Send + Sync {}

impl<T: Debug + Send + Sync> Holding for T {}

/// The body of an answer. In HTTP/2 its last byte goes by itself: it is asked for when the other end
/// has made room for all before it, so that until then the stream can be reset by itself. Were all
/// handed over at once, only the end of the whole connection could take it back.
#[derive(Debug)]
pub(crate) struct Outgoing {
    body: Body,
    /// The last byte, if it is to go by itself.
    last: Option<Bytes>,
    splits: bool,
    cover: Arc<dyn Holding>,
}

/// What is given back when the answer has been taken.
#[derive(Debug)]
struct Cover<T> {
    _share: Option<Share<Owner>>,
    _held: Option<Held>,
    _under_way: T,
}

/// Bytes that hold something.
struct Covered {
    bytes: Bytes,
    _cover: Arc<dyn Holding>,
}

impl AsRef<[u8]> for Covered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    fn covered(&self, bytes: Bytes) -> Frame<Bytes> {
        Frame::data(Bytes::from_owner(Covered { bytes, _cover: Arc::clone(&self.cover) }))
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(Ok(self.covered(last))));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let mut bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        if self.splits && bytes.len() > 1 && self.body.is_end_stream() {
            self.last = Some(bytes.split_off(bytes.len() - 1));
        }
        Poll::Ready(Some(Ok(self.covered(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.last {
            Some(_) => SizeHint::with_exact(1),
            None => self.body.size_hint(),
        }
    }
}

/// Sends an answer, or nothing where there is no room for it. Holds `under_way` likewise.
pub(crate) fn send(
    mut response: Response,
    (limits, caller, version): (&Limits, &Caller, Version),
    under_way: impl Holding + 'static,
) -> Response<Outgoing> {
    let held = response.extensions_mut().remove().and_then(|it: Holds| it.take());
    let owner = match &held {
        Some(held) => Owner::Server(held.origin.clone()),
        None => Owner::Address(caller.address),
    };
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    let share = limits.answer(owner, bytes, caller.cut.clone());
    if share.is_err() {
        caller.cut.cut();
    }
    let cover = Cover { _share: share.ok(), _held: held, _under_way: under_way };
    let splits = version == Version::HTTP_2;
    response.map(|body| Outgoing { body, last: None, splits, cover: Arc::new(cover) })
}
