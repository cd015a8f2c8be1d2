//! Requests that end with nobody being known, by the address that they came from: so many a second,
//! and so many at once. Who sends more is not listened to for a while. Each costs more than it takes to
//! send it, which no bound on how many there are at the same time changes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::FAILURES;
use crate::metrics::Metrics;

/// What may come at once: what comes in so many seconds otherwise.
const BURST_SECONDS: f64 = 4.0;
/// Most addresses that are remembered.
const MAX_ADDRESSES: usize = 10_000;

/// The counts.
#[derive(Debug)]
pub(super) struct Failures {
    rate: f64,
    metrics: Metrics,
    recent: Mutex<HashMap<IpAddr, Recent>>,
}

/// How many are not forgiven yet.
#[derive(Clone, Copy, Debug)]
struct Recent {
    count: f64,
    at: Instant,
}

/// A request, which counts when it ends, unless it is known by then who asked.
#[derive(Debug)]
pub(crate) struct Attempt {
    failures: Arc<Failures>,
    address: IpAddr,
    is_known: AtomicBool,
    /// Ends the connection, if nobody else uses it.
    connection: Option<CancellationToken>,
}

impl Failures {
    pub(super) fn new(a_second: u32, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { rate: a_second.into(), metrics, recent: Mutex::default() })
    }

    /// Whether an address is listened to.
    pub(super) fn are_few(&self, address: IpAddr) -> bool {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(&address).is_none_or(|it| self.left(it) < self.rate * BURST_SECONDS)
    }

    pub(super) fn attempt(
        self: &Arc<Self>,
        address: IpAddr,
        connection: Option<CancellationToken>,
    ) -> Attempt {
        let is_known = AtomicBool::new(false);
        Attempt { failures: Arc::clone(self), address, is_known, connection }
    }

    fn count(&self, address: IpAddr) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MAX_ADDRESSES && !recent.contains_key(&address) {
            recent.retain(|_, it| self.left(it) > 0.0);
            if recent.len() >= MAX_ADDRESSES {
                recent.clear();
            }
        }
        let now = Instant::now();
        let before = recent.get(&address).map_or(0.0, |it| self.left(it));
        // What comes while nobody listens does not make it longer.
        let count = (before + 1.0).min(self.rate * BURST_SECONDS);
        recent.insert(address, Recent { count, at: now });
    }

    fn left(&self, recent: &Recent) -> f64 {
        (recent.count - recent.at.elapsed().as_secs_f64() * self.rate).max(0.0)
    }
}

impl Attempt {
    /// It is known who asked.
    pub(crate) fn succeeded(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_known.load(Ordering::Relaxed) {
            return;
        }
        self.failures.count(self.address);
        if !self.failures.are_few(self.address)
            && let Some(connection) = &self.connection
        {
            self.failures.metrics.limited(FAILURES);
            connection.cancel();
        }
    }
}

/// How long until an address is listened to again, at the soonest.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fails_often_is_not_listened_to_for_a_while() {
        let failures = Failures::new(10, Metrics::new());
        let [a, b] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let connection = CancellationToken::new();
        for _ in 0..39 {
            drop(failures.attempt(a, Some(connection.clone())));
        }
        for _ in 0..99 {
            failures.attempt(b, None).succeeded();
        }
        assert!(failures.are_few(a) && failures.are_few(b) && !connection.is_cancelled());
        drop(failures.attempt(a, Some(connection.clone())));
        assert!(!failures.are_few(a) && failures.are_few(b) && connection.is_cancelled());
        for _ in 0..99 {
            drop(failures.attempt(a, None));
        }
        tokio::time::advance(Duration::from_millis(150)).await;
        assert!(failures.are_few(a));
        drop(failures.attempt(a, None));
        drop(failures.attempt(a, None));
        assert!(!failures.are_few(a));
    }
}
