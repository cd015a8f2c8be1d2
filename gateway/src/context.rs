//! What every request is given. Plain data.

use std::{sync::atomic::AtomicBool, time::Duration};

use tokio::time::Instant;

use crate::{history::History, limits::Limits, metrics::Metrics, x_matrix::Authenticator};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) authenticator: Authenticator,
    pub(crate) history: History,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) request_timeout: Duration,
    /// Set once, when we are asked to stop.
    pub(crate) stopping: AtomicBool,
}

impl Context {
    /// When a request that has come whole must be answered.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }
}
