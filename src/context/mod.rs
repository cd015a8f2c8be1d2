//! The context of a use case: plain data that all requests share.

pub mod feeder;
mod server_keys;

use std::sync::Arc;

use self::feeder::Feeder;
pub use self::server_keys::RememberedKeys;
use crate::{backlog::Backlog, metrics::Metrics, slow_walks::SlowWalks, store::Store};

/// The context of a use case.
pub struct Context {
    /// The store of all rooms.
    pub store: Store,
    /// The counters of the process.
    pub metrics: Metrics,
    /// The slowest walks since the start.
    pub slow_walks: SlowWalks,
    /// Rooms with more work left than an append waits for.
    pub backlog: Backlog,
    /// The feeder, its lease and its ticks.
    pub feeder: Arc<Feeder>,
}

impl Context {
    /// A context with an open store and new counters.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self::counted(store, Metrics::new())
    }

    /// A context with an open store and existing counters.
    #[must_use]
    pub fn counted(store: Store, metrics: Metrics) -> Self {
        Self {
            store,
            metrics,
            slow_walks: SlowWalks::default(),
            backlog: Backlog::default(),
            feeder: Arc::default(),
        }
    }
}
