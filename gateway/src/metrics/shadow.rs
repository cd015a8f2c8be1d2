//! The metric of comparisons with the homeserver.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Counts comparisons by their result. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShadowMetrics {
    results: Family<ResultLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl ShadowMetrics {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Questions whose answers were compared with the homeserver's, by result";
        to.register("backscroll_gateway_shadow", help, self.results.clone());
    }

    /// Creates the counters of all results, so that the first one is visible as a change.
    pub(crate) fn prepare(&self, deliberate: &[&'static str]) {
        let others = ["same", "race", "unexplained", "not_compared"];
        for result in deliberate.iter().copied().chain(others) {
            drop(self.results.get_or_create(&ResultLabel { result }));
        }
    }

    /// Counts a question.
    pub(crate) fn compared(&self, result: &'static str) {
        self.results.get_or_create(&ResultLabel { result }).inc();
    }
}
