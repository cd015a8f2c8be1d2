//! What every request needs: our name, the clock, limits, keys and the history service.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::Clock, fallback::Fallback, history::History, keys::Keys, limits::Limits,
    metrics::Metrics, server_name::ServerName, shadow::Shadow,
};

#[derive(Debug)]
pub(crate) struct Context {
    /// The name of our homeserver.
    pub(crate) server_name: ServerName,
    pub(crate) clock: Clock,
    /// The keys of other servers.
    pub(crate) keys: Keys,
    pub(crate) history: Arc<History>,
    /// The homeserver, if it answers what the history service cannot.
    pub(crate) fallback: Option<Fallback>,
    /// Compares the homeserver's answers, if that is wanted.
    pub(crate) shadow: Option<Shadow>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) request_timeout: Duration,
    /// Set once, when the gateway is asked to stop.
    pub(crate) stopping: AtomicBool,
}

impl Context {
    /// When a request that has just been received completely must be answered.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }
}
