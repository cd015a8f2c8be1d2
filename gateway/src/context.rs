//! What every request is given. Plain data.

use std::{sync::atomic::AtomicBool, time::Duration};

use crate::{history::History, metrics::Metrics, x_matrix::Authenticator};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) authenticator: Authenticator,
    pub(crate) history: History,
    pub(crate) metrics: Metrics,
    pub(crate) body_timeout: Duration,
    /// Set once, when we are asked to stop.
    pub(crate) stopping: AtomicBool,
}
