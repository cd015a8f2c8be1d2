//! The metrics of the follower.

use std::sync::Arc;

use prometheus_client::registry::Registry;

/// The metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// Creates all metrics with the value zero.
    pub(crate) fn new() -> Self {
        let registry = Registry::with_prefix("backscroll_synapse");
        Self { registry: Arc::new(registry) }
    }

    /// The registry, for the page of metrics.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }
}
