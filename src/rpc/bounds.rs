//! Requests with bounds for the feeder. A negative answer waits once for the next tick, without a
//! thread and without a permit of the executor.

use std::time::Duration;

use tokio::time::{self, Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tracing::Span;

use super::status;
use crate::{
    access::AccessRefusal,
    context::{
        Context,
        feeder::{FeederBehind, FeederBounds, Received, WaitSlot},
    },
    deadline::Deadline,
    proto::v1::ErrorReason,
    query::ServedPage,
};

/// The answer to a question, and whether a later tick may change it.
pub(super) struct BoundedPage {
    pub(super) page: ServedPage,
    /// `None` if the request has no bounds.
    pub(super) is_final: Option<bool>,
}

impl BoundedPage {
    /// Whether some ids are unknown that a later tick may bring.
    pub(super) fn is_not_final(&self) -> bool {
        self.is_final == Some(false) && !self.page.unknown_event_ids.is_empty()
    }
}

/// What was found for a question.
pub(super) struct FoundAnswer {
    pub(super) answer: Result<ServedPage, AccessRefusal>,
    /// Whether the answer is final if it is negative; `None` if the request has no bounds.
    pub(super) is_final: Option<bool>,
    pub(super) took: Duration,
}

/// The bounds of a request that was received.
pub(super) struct Bounded<'a> {
    cx: &'a Context,
    /// `None` if the request has no bounds.
    bounds: Option<(FeederBounds, Received)>,
    /// The server that asks; empty for an internal caller.
    origin: &'a str,
}

impl<'a> Bounded<'a> {
    /// The bounds of a request that is received now.
    pub(super) fn new(cx: &'a Context, bounds: Option<FeederBounds>, origin: &'a str) -> Self {
        Self { cx, bounds: bounds.map(|it| (it, cx.feeder.received())), origin }
    }

    /// Checks the feeder.
    ///
    /// # Errors
    /// `FEEDER_BEHIND` if it does not keep the bounds.
    pub(super) fn check_lag(&self) -> Result<(), Status> {
        let Some((bounds, _)) = self.bounds else { return Ok(()) };
        self.cx.feeder.check_lag(bounds.max_lag, Instant::now().into_std()).map_err(|behind| {
            self.cx.metrics.bounded_request(match behind {
                FeederBehind::Away => "away",
                FeederBehind::NotReady => "not_ready",
                FeederBehind::Behind(_) => "behind",
            });
            status::feeder_behind(behind)
        })
    }

    /// Whether an answer that is looked up from now on is final; `None` if there are no bounds.
    pub(super) fn is_final(&self) -> Option<bool> {
        self.bounds.map(|(_, received)| self.cx.feeder.is_final(received))
    }

    /// Whether an answer is negative and not final.
    pub(super) fn may_become_positive(&self, found: &FoundAnswer) -> bool {
        found.is_final == Some(false) && is_negative(&found.answer)
    }

    /// The right to wait; `None` if the request does not ask for it, or if too many wait.
    pub(super) fn wait_slot(&self) -> Option<Waiting<'a>> {
        let (FeederBounds { max_wait, .. }, received) = self.bounds?;
        if max_wait.is_zero() {
            return None;
        }
        let slot = self.cx.feeder.wait_slot(self.origin)?;
        Some(Waiting { cx: self.cx, slot, received, max_wait })
    }

    /// Counts a request that was answered.
    pub(super) fn count(&self, answer: &Result<ServedPage, AccessRefusal>, is_final: Option<bool>) {
        let Some(is_final) = is_final else { return };
        self.cx.metrics.bounded_request(match (is_negative(answer), is_final) {
            (false, _) => "positive",
            (true, true) => "final",
            (true, false) => "not_final",
        });
    }

    /// Counts a request that failed, if that is because the room is not served.
    pub(super) fn count_failure(&self, failure: &Status) {
        if self.bounds.is_none() || failure.code() != Code::PermissionDenied {
            return;
        }
        let reason = failure.get_details_error_info().map(|it| it.reason);
        if reason.is_some_and(|it| it == ErrorReason::RoomNotServed.as_str_name()) {
            self.cx.metrics.bounded_request("not_served");
        }
    }
}

fn is_negative(answer: &Result<ServedPage, AccessRefusal>) -> bool {
    answer.as_ref().map_or(true, |page| !page.unknown_event_ids.is_empty())
}

/// A request that waits for the next tick.
pub(super) struct Waiting<'a> {
    cx: &'a Context,
    slot: WaitSlot<'a>,
    received: Received,
    max_wait: Duration,
}

impl Waiting<'_> {
    /// Waits for the end of a tick that began after the request was received; for a limited time,
    /// which leaves a quarter of the time until the deadline for the answer.
    pub(super) async fn until_final(self, deadline: &Deadline) {
        let started = Instant::now();
        let left = |at| Instant::from_std(at).saturating_duration_since(started) * 3 / 4;
        let wait = deadline.at().map_or(self.max_wait, |at| left(at).min(self.max_wait));
        // The answer afterwards says whether the tick has ended.
        drop(time::timeout(wait, self.slot.until_final(self.received)).await);
        let waited = started.elapsed();
        self.cx.metrics.waited_for_tick(waited);
        Span::current().record("waited", u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
    }
}
