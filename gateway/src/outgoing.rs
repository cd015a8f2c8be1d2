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

/// An answer goes out in pieces of this size, so that it is seen whether it is taken.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of an answer. In HTTP/2 its last byte goes by itself: it is asked for when the other end
/// has made room for all before it, so that until then the stream can be reset by itself. Were all
/// handed over at once, only the end of the whole connection could take it back.
#[derive(Debug)]
pub(crate) struct Outgoing {
    body: Body,
    /// What has come of it and has not gone out.
    left: Bytes,
    splits: bool,
    cover: Arc<dyn Holding>,
}

/// What can be held.
trait Holding: Debug + Send + Sync {
    /// A piece is asked for, since those before it are on their way.
    fn moved(&self);
}

/// What is given back when the answer has been taken.
#[derive(Debug)]
struct Cover<T> {
    share: Option<Share<Owner>>,
    held: Option<Held>,
    _under_way: T,
}

/// Bytes that hold something.
struct Covered {
    bytes: Bytes,
    _cover: Arc<dyn Holding>,
}

/// Sends an answer, or nothing where there is no room for it. Holds `under_way` likewise.
pub(crate) fn send(
    mut response: Response,
    (limits, caller, version): (&Limits, &Caller, Version),
    under_way: impl Debug + Send + Sync + 'static,
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
    let cover = Arc::new(Cover { share: share.ok(), held, _under_way: under_way });
    let splits = version == Version::HTTP_2;
    response.map(|body| Outgoing { body, left: Bytes::new(), splits, cover })
}

impl<T: Debug + Send + Sync> Holding for Cover<T> {
    fn moved(&self) {
        if let Some(share) = &self.share {
            share.moved();
        }
    }
}

impl<T> Drop for Cover<T> {
    fn drop(&mut self) {
        let was_taken = self.share.as_ref().is_some_and(Share::end);
        if !was_taken && let Some(held) = self.held.take() {
            held.was_not_taken();
        }
    }
}

impl AsRef<[u8]> for Covered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.left.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(bytes) => self.left = bytes,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        } else {
            self.cover.moved();
        }
        let mut length = self.left.len().min(PIECE_BYTES);
        if self.splits && length > 1 && length == self.left.len() && self.body.is_end_stream() {
            length -= 1;
        }
        let covered = Covered { bytes: self.left.split_to(length), _cover: self.cover.clone() };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(covered)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = u64::try_from(self.left.len()).unwrap_or(u64::MAX);
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint.set_lower(hint.lower().saturating_add(left));
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Holding for Nothing {
        fn moved(&self) {}
    }

    fn outgoing(bytes: usize, splits: bool) -> Outgoing {
        let (body, left, cover) = (vec![7; bytes].into(), Bytes::new(), Arc::new(Nothing));
        Outgoing { body, left, splits, cover }
    }

    #[test]
    fn pieces() {
        let pieces = |bytes, splits| {
            let mut body = outgoing(bytes, splits);
            let mut pieces = Vec::new();
            while let Some(frame) = body.frame().now_or_never().unwrap() {
                let left = body.size_hint().exact().unwrap();
                let piece = frame.unwrap().into_data().unwrap();
                pieces.push(piece.len());
                assert_eq!(usize::try_from(left).unwrap(), bytes - pieces.iter().sum::<usize>());
                assert_eq!(body.is_end_stream(), left == 0);
            }
            pieces
        };
        assert_eq!(pieces(0, true), [0; 0]);
        assert_eq!(pieces(1, true), [1]);
        assert_eq!(pieces(9, true), [8, 1]);
        assert_eq!(pieces(9, false), [9]);
        assert_eq!(pieces(PIECE_BYTES, true), [PIECE_BYTES - 1, 1]);
        assert_eq!(pieces(PIECE_BYTES + 1, true), [PIECE_BYTES, 1]);
        assert_eq!(pieces(2 * PIECE_BYTES + 1, false), [PIECE_BYTES, PIECE_BYTES, 1]);
    }

    /// What hyper still has to write counts, whatever has become of the body.
    #[test]
    fn bytes_hold_what_the_answer_holds() {
        let mut body = outgoing(9, true);
        let cover = Arc::downgrade(&body.cover);
        let piece = body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        drop(body);
        let part = piece.slice(3..4);
        drop(piece);
        assert!(cover.upgrade().is_some());
        drop(part);
        assert!(cover.upgrade().is_none());
    }
}
