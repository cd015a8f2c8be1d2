//! The body of a response that is copied while it is sent.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::StatusCode,
};
use hyper::body::{Frame, SizeHint};

use super::{
    begin::Comparison,
    sides::{HomeserverSide, MAX_ANSWER_BYTES},
};

/// A body that is copied while it is sent, up to [`MAX_ANSWER_BYTES`]. When it was sent as a whole, the
/// copy is compared.
pub(super) struct Observed {
    body: Body,
    copy: Vec<u8>,
    /// The length that the head announced.
    announced: Option<u64>,
    status: StatusCode,
    took: Duration,
    /// `None` when the copy was handed over, or is too large.
    comparison: Option<Comparison>,
}

impl Observed {
    pub(super) fn new(
        body: Body,
        comparison: Comparison,
        status: StatusCode,
        took: Duration,
    ) -> Self {
        let announced = body.size_hint().exact();
        let comparison = Some(comparison);
        let mut observed = Self { body, copy: Vec::new(), announced, status, took, comparison };
        observed.hand_over_if_complete();
        observed
    }

    fn add(&mut self, data: &[u8]) {
        if self.comparison.is_none() {
            return;
        }
        if self.copy.len() + data.len() > MAX_ANSWER_BYTES {
            self.copy = Vec::new();
            if let Some(comparison) = self.comparison.take() {
                comparison.not_compared("answer_too_large_or_broken");
            }
            return;
        }
        self.copy.extend_from_slice(data);
    }

    /// A body of known length is not polled again after its last byte.
    fn hand_over_if_complete(&mut self) {
        let length = u64::try_from(self.copy.len()).unwrap_or(u64::MAX);
        if self.body.is_end_stream() || self.announced == Some(length) {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some(comparison) = self.comparison.take() {
            let side = HomeserverSide::answered(self.status, &self.copy, self.took);
            self.copy = Vec::new();
            comparison.homeserver_was_sent(side);
        }
    }
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.add(data);
                }
                self.hand_over_if_complete();
            }
            // A body of announced length that ends early was not sent as a whole.
            None if self.announced.is_none() => self.hand_over(),
            None | Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
