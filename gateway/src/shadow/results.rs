//! Counts what comparisons have found, and keeps the last differences that are not explained.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};

use crate::{answer, metrics::ShadowMetrics, proto::v1::DifferenceReason};

/// The path at which the results are served, beside the metrics.
pub(super) const PATH: &str = "/shadow";
/// The most differences that are kept.
const MAX_UNEXPLAINED: usize = 50;
/// The number of last answers of which the times are kept.
const MAX_TIMES: usize = 2_000;

/// The results of comparisons since the start. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ShadowResults {
    counts: Arc<Mutex<ShadowCounts>>,
    metrics: Arc<Mutex<Option<ShadowMetrics>>>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
struct ShadowCounts {
    report: ShadowReport,
    history_times: VecDeque<Duration>,
    homeserver_times: VecDeque<Duration>,
}

/// The results as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ShadowReport {
    /// Who answers; empty if nothing is compared.
    pub(super) answer: String,
    /// The share of requests that are compared.
    pub(super) rate: f64,
    /// When the gateway was started, in milliseconds since 1970.
    pub(super) since_ms: u64,
    /// Questions to which both gave the same answer.
    pub(super) same: u64,
    /// Questions whose answers differ deliberately.
    pub(super) deliberate: u64,
    /// Those by reason; a question may have several.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Questions whose answers differed at first, and were the same when both were asked again.
    pub(super) race: u64,
    /// Questions whose answers differ without an explanation.
    pub(super) unexplained: u64,
    /// Questions whose answers were not compared, by cause.
    pub(super) not_compared: BTreeMap<String, u64>,
    /// Of the last answers, the median and the 95th percentile of the time they took, in milliseconds.
    pub(super) history_ms: Times,
    /// The same for the homeserver, up to the head of its answers.
    pub(super) homeserver_ms: Times,
    /// The last differences without an explanation, the newest last.
    pub(super) last_unexplained: VecDeque<Unexplained>,
}

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Times {
    pub(super) p50: f64,
    pub(super) p95: f64,
}

/// A difference that is not explained. It has no content of events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Unexplained {
    /// When it was found, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) endpoint: String,
    pub(super) room_id: String,
    /// The server that has asked.
    pub(super) origin: String,
    /// The status of our answer, and the error code of a refusal.
    pub(super) history: String,
    /// The same for the homeserver's answer.
    pub(super) homeserver: String,
    /// The number of events that differ: at most 100 are counted.
    pub(super) event_count: usize,
    /// The first ten of them.
    pub(super) events: Vec<NamedEvent>,
}

/// An event of which the answers have different forms, or which one of them does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NamedEvent {
    pub(super) event_id: String,
    /// The hash of our form; empty if our answer does not have the event.
    pub(super) history_sha256: String,
    /// The hash of the homeserver's form; empty if its answer does not have the event.
    pub(super) homeserver_sha256: String,
}

impl ShadowResults {
    /// A page with the results as JSON, to be served beside the metrics: at `/shadow`.
    pub fn page(&self) -> Router {
        let page = async |State(results): State<Self>| {
            answer::json(serde_json::to_vec(&results.report()).expect("a report is plain data"))
        };
        Router::new().route(PATH, get(page)).with_state(self.clone())
    }

    /// Counts in these metrics too.
    pub(crate) fn count_in(&self, metrics: ShadowMetrics) {
        metrics.prepare(&REASONS.map(name));
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Some(metrics);
    }

    pub(super) fn begin(&self, answer: &str, rate: f64, now_ms: u64) {
        let mut counts = self.lock();
        answer.clone_into(&mut counts.report.answer);
        counts.report.rate = rate;
        counts.report.since_ms = now_ms;
    }

    pub(super) fn took(&self, history: Duration, homeserver: Duration) {
        let mut counts = self.lock();
        let ShadowCounts { history_times, homeserver_times, .. } = &mut *counts;
        for (times, took) in [(history_times, history), (homeserver_times, homeserver)] {
            if times.len() >= MAX_TIMES {
                times.pop_front();
            }
            times.push_back(took);
        }
    }

    pub(super) fn same(&self) {
        self.lock().report.same += 1;
        self.count("same");
    }

    pub(super) fn race(&self) {
        self.lock().report.race += 1;
        self.count("race");
    }

    /// A question with several reasons counts once in the metric: for the first.
    pub(super) fn deliberate(&self, reasons: &[DifferenceReason]) {
        let mut counts = self.lock();
        counts.report.deliberate += 1;
        for reason in reasons {
            *counts.report.reasons.entry(name(*reason).to_owned()).or_default() += 1;
        }
        drop(counts);
        self.count(reasons.first().map_or("deliberate_unknown", |it| name(*it)));
    }

    pub(super) fn unexplained(&self, difference: Unexplained) {
        let mut counts = self.lock();
        counts.report.unexplained += 1;
        if counts.report.last_unexplained.len() >= MAX_UNEXPLAINED {
            counts.report.last_unexplained.pop_front();
        }
        counts.report.last_unexplained.push_back(difference);
        drop(counts);
        self.count("unexplained");
    }

    pub(super) fn not_compared(&self, why: &'static str) {
        *self.lock().report.not_compared.entry(why.to_owned()).or_default() += 1;
        self.count("not_compared");
    }

    fn count(&self, result: &'static str) {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*metrics {
            metrics.compared(result);
        }
    }

    fn report(&self) -> ShadowReport {
        let counts = self.lock().clone();
        ShadowReport {
            history_ms: Times::of(counts.history_times),
            homeserver_ms: Times::of(counts.homeserver_times),
            ..counts.report
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShadowCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn of(times: VecDeque<Duration>) -> Self {
        let mut times = Vec::from(times);
        times.sort_unstable();
        let at = |percent: usize| {
            let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(place).map_or(0.0, |it| it.as_secs_f64() * 1_000.0)
        };
        Self { p50: at(50), p95: at(95) }
    }
}

/// All reasons that a build knows.
const REASONS: [DifferenceReason; 11] = [
    DifferenceReason::RejectedEvents,
    DifferenceReason::Outliers,
    DifferenceReason::UnservableEvents,
    DifferenceReason::OtherRooms,
    DifferenceReason::RedactionsWithheld,
    DifferenceReason::MinDepth,
    DifferenceReason::LatestEvents,
    DifferenceReason::Limit,
    DifferenceReason::AnswerBound,
    DifferenceReason::ErasedSender,
    DifferenceReason::VisibleBefore,
];

/// The name of a reason in metrics and reports.
fn name(reason: DifferenceReason) -> &'static str {
    match reason {
        DifferenceReason::Unspecified => "deliberate_unknown",
        DifferenceReason::RejectedEvents => "deliberate_rejected_events",
        DifferenceReason::Outliers => "deliberate_outliers",
        DifferenceReason::UnservableEvents => "deliberate_unservable_events",
        DifferenceReason::OtherRooms => "deliberate_other_rooms",
        DifferenceReason::RedactionsWithheld => "deliberate_redactions_withheld",
        DifferenceReason::MinDepth => "deliberate_min_depth",
        DifferenceReason::LatestEvents => "deliberate_latest_events",
        DifferenceReason::Limit => "deliberate_limit",
        DifferenceReason::AnswerBound => "deliberate_answer_bound",
        DifferenceReason::ErasedSender => "deliberate_erased_sender",
        DifferenceReason::VisibleBefore => "deliberate_visible_before",
    }
}

/// What a reason means, as one sentence for an operator. `None` for a name that is not known.
pub(super) fn meaning(of: &str) -> Option<&'static str> {
    let reason = REASONS.into_iter().find(|it| name(*it) == of)?;
    Some(match reason {
        DifferenceReason::RejectedEvents => {
            "Synapse ends its walk at rejected events and counts them; ours passes them."
        }
        DifferenceReason::Outliers => "Synapse returns events that it has not placed in the graph.",
        DifferenceReason::UnservableEvents => {
            "Synapse returns events that break the format of their room version."
        }
        DifferenceReason::OtherRooms => "Synapse returns events of another room.",
        DifferenceReason::RedactionsWithheld => {
            "Synapse leaves out redactions that it could not validate; we serve them."
        }
        DifferenceReason::MinDepth => "Synapse ignores min_depth.",
        DifferenceReason::LatestEvents => "Synapse returns events that the server asked from.",
        DifferenceReason::Limit => {
            "The limit was reached among events that Synapse takes in an arbitrary order."
        }
        DifferenceReason::AnswerBound => "Our answer ended at its bound of 2 MiB, or of work.",
        DifferenceReason::ErasedSender => {
            "Servers that had an erased user's event get it whole from us."
        }
        DifferenceReason::VisibleBefore => {
            "The state before a member or visibility event allows it; Synapse looks after it."
        }
        DifferenceReason::Unspecified => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_and_a_meaning() {
        for reason in REASONS {
            assert!(meaning(name(reason)).is_some_and(|it| it.ends_with('.')));
        }
        let number = i32::try_from(REASONS.len()).unwrap();
        assert!(DifferenceReason::try_from(number).is_ok());
        assert!(DifferenceReason::try_from(number + 1).is_err(), "a reason is missing here");
    }

    #[test]
    fn results_are_counted_and_only_the_last_differences_are_kept() {
        let results = ShadowResults::default();
        results.same();
        results.race();
        results.deliberate(&[DifferenceReason::Limit, DifferenceReason::MinDepth]);
        results.not_compared("too_many");
        for nth in 0..60 {
            results.unexplained(Unexplained { at_ms: nth, ..Unexplained::default() });
        }
        let report = results.report();
        assert_eq!((report.same, report.race, report.deliberate), (1, 1, 1));
        assert_eq!(report.reasons["deliberate_limit"], 1);
        assert_eq!(report.reasons["deliberate_min_depth"], 1);
        assert_eq!(report.not_compared["too_many"], 1);
        assert_eq!(report.unexplained, 60);
        let kept: Vec<u64> = report.last_unexplained.iter().map(|it| it.at_ms).collect();
        assert_eq!(kept, (10..60).collect::<Vec<_>>());
    }

    #[test]
    fn times_are_percentiles_of_the_last_answers() {
        let results = ShadowResults::default();
        assert_eq!(results.report().history_ms, Times::default());
        for ms in 1..=3_000 {
            results.took(Duration::from_millis(ms), Duration::from_secs(1));
        }
        let report = results.report();
        assert_eq!(report.history_ms, Times { p50: 2_001.0, p95: 2_901.0 });
        assert_eq!(report.homeserver_ms, Times { p50: 1_000.0, p95: 1_000.0 });
    }
}
