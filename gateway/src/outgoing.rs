//! Sends a response. Its bytes hold what the response occupies: a share of the answers that are being
//! sent, and the server's permit. Both are free again when the last byte has been written to the
//! connection, or the response is dropped.

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

use crate::{
    admission::{AnswerHold, Caller, StreamedAnswer, take_hold},
    limits::{AnswerOwner, Limits, Share},
};

/// A response is written in pieces of this size, so that its progress can be seen.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of a response. In HTTP/2 its last byte is a piece of its own: hyper asks for it only when
/// the client has allowed everything before it, and until then the stream can be reset by itself. If
/// hyper had the whole body, only the connection could be closed.
#[derive(Debug)]
pub(crate) struct OutgoingBody {
    body: Body,
    /// Bytes of `body` that were not handed to hyper yet.
    rest: Bytes,
    splits_last_byte: bool,
    occupied: Arc<dyn Occupied>,
}

/// What a response occupies while it is being written.
trait Occupied: Debug + Send + Sync {
    /// Notes that hyper has asked for another piece, so that earlier ones are being written.
    fn progressed(&self);
}

/// What a response occupies outside of tests.
#[derive(Debug)]
struct AnswerResources<T> {
    /// `None` if there was no share left.
    share: Option<Arc<Share<AnswerOwner>>>,
    /// `None` if the request was not authenticated.
    hold: Option<AnswerHold>,
    /// `None` if the whole answer is in memory.
    _streamed: Option<StreamedAnswer>,
    _request: T,
}

/// Bytes of a response, which keep occupied what it occupies.
struct OccupyingBytes {
    bytes: Bytes,
    _occupied: Arc<dyn Occupied>,
}

/// Prepares a response for sending, or evicts the request if there are too many answers. `request` is
/// held until the response has been written.
pub(crate) fn send(
    mut response: Response,
    limits: &Limits,
    caller: &Caller,
    version: Version,
    request: impl Debug + Send + Sync + 'static,
) -> Response<OutgoingBody> {
    let hold = take_hold(&mut response);
    let owner = match &hold {
        Some(hold) => AnswerOwner::Server(hold.origin.clone()),
        None => AnswerOwner::Address(caller.address),
    };
    let streamed: Option<StreamedAnswer> = response.extensions_mut().remove();
    let bytes = match &streamed {
        Some(_) => StreamedAnswer::BYTES,
        None => usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX),
    };
    let share = match streamed.as_ref().and_then(|it| it.share.clone()) {
        Some(share) => Ok(share),
        None => limits.answer(owner, bytes, caller.eviction.clone()).map(Arc::new),
    };
    if share.is_err() {
        caller.eviction.evict();
    }
    let share = share.ok();
    let occupied = AnswerResources { share, hold, _streamed: streamed, _request: request };
    let occupied = Arc::new(occupied);
    let splits_last_byte = version == Version::HTTP_2;
    response.map(|body| OutgoingBody { body, rest: Bytes::new(), splits_last_byte, occupied })
}

impl<T: Debug + Send + Sync> Occupied for AnswerResources<T> {
    fn progressed(&self) {
        if let Some(share) = &self.share {
            share.progressed();
        }
    }
}

impl<T> Drop for AnswerResources<T> {
    fn drop(&mut self) {
        let was_read = self.share.as_ref().is_some_and(|share| share.end());
        if !was_read && let Some(hold) = self.hold.take() {
            hold.was_not_read();
        }
    }
}

impl AsRef<[u8]> for OccupyingBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for OutgoingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(bytes) => self.rest = bytes,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        } else {
            self.occupied.progressed();
        }
        let mut length = self.rest.len().min(PIECE_BYTES);
        let is_last = length == self.rest.len() && self.body.is_end_stream();
        if self.splits_last_byte && is_last && length > 1 {
            length -= 1;
        }
        let bytes = self.rest.split_to(length);
        let bytes = OccupyingBytes { bytes, _occupied: Arc::clone(&self.occupied) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Debug)]
    struct Unlimited;

    impl Occupied for Unlimited {
        fn progressed(&self) {}
    }

    fn outgoing(bytes: usize, splits: bool) -> OutgoingBody {
        OutgoingBody {
            body: vec![7; bytes].into(),
            rest: Bytes::new(),
            splits_last_byte: splits,
            occupied: Arc::new(Unlimited),
        }
    }

    #[test]
    fn a_body_is_sent_in_pieces() {
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

    /// Bytes that hyper still has to write count, even if the body is dropped.
    #[test]
    fn bytes_keep_occupied_what_the_answer_occupies() {
        let mut body = outgoing(9, true);
        let occupied = Arc::downgrade(&body.occupied);
        let piece = body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        drop(body);
        let part = piece.slice(3..4);
        drop(piece);
        assert!(occupied.upgrade().is_some());
        drop(part);
        assert!(occupied.upgrade().is_none());
    }
}
