//! Requests that end without authentication, per client address and second. An address that sends
//! too many is ignored for a while. Each such request costs the gateway more than its sender, and a
//! limit on simultaneous requests would not change that.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{client_address::ClientAddress, limiter::Limiter, metrics::Metrics};

/// How many seconds' worth of failures may happen at once.
const BURST_SECONDS: f64 = 4.0;
/// Most addresses that are kept.
const MAX_ADDRESSES: usize = 10_000;
/// Shortest time until an ignored address is accepted again.
pub(crate) const FAILURES_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts the recent failures of each address.
#[derive(Debug)]
pub(super) struct Failures {
    per_second: f64,
    metrics: Metrics,
    recent: Mutex<HashMap<ClientAddress, RecentFailures>>,
}

/// The failures of one address: the count falls by [`Failures::per_second`].
#[derive(Clone, Copy, Debug)]
struct RecentFailures {
    count: f64,
    at: Instant,
}

/// A request. It counts as a failure when it is dropped, unless it was authenticated before.
#[derive(Debug)]
pub(crate) struct Attempt {
    failures: Arc<Failures>,
    address: ClientAddress,
    is_authenticated: AtomicBool,
    /// Closes the connection. `None` if other clients may use it.
    connection: Option<CancellationToken>,
}

impl Failures {
    pub(super) fn new(per_second: u32, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { per_second: per_second.into(), metrics, recent: Mutex::default() })
    }

    /// Whether requests of an address are accepted.
    pub(super) fn are_few(&self, address: ClientAddress) -> bool {
        let recent = self.lock();
        let most = self.per_second * BURST_SECONDS;
        // There must be room for a whole one: a part of one is there after any time.
        recent.get(&address).is_none_or(|it| self.remaining(it) + 1.0 <= most)
    }

    pub(super) fn attempt(
        self: &Arc<Self>,
        address: ClientAddress,
        connection: Option<CancellationToken>,
    ) -> Attempt {
        let is_authenticated = AtomicBool::new(false);
        Attempt { failures: Arc::clone(self), address, is_authenticated, connection }
    }

    fn count(&self, address: ClientAddress) {
        let mut recent = self.lock();
        if recent.len() >= MAX_ADDRESSES && !recent.contains_key(&address) {
            recent.retain(|_, it| self.remaining(it) > 0.0);
            if recent.len() >= MAX_ADDRESSES {
                recent.clear();
            }
        }
        let before = recent.get(&address).map_or(0.0, |it| self.remaining(it));
        // Failures beyond the burst do not prolong the time during which the address is ignored.
        let count = (before + 1.0).min(self.per_second * BURST_SECONDS);
        recent.insert(address, RecentFailures { count, at: Instant::now() });
    }

    fn remaining(&self, recent: &RecentFailures) -> f64 {
        (recent.count - recent.at.elapsed().as_secs_f64() * self.per_second).max(0.0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientAddress, RecentFailures>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// Notes that the request was authenticated.
    pub(crate) fn succeeded(&self) {
        self.is_authenticated.store(true, Ordering::Relaxed);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_authenticated.load(Ordering::Relaxed) {
            return;
        }
        self.failures.count(self.address);
        if !self.failures.are_few(self.address)
            && let Some(connection) = &self.connection
        {
            self.failures.metrics.limited(Limiter::Failures.name());
            connection.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_failures_is_ignored_for_a_while() {
        let failures = Failures::new(10, Metrics::new());
        let [a, b] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]).into());
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
        tokio::time::advance(Duration::from_millis(50)).await;
        assert!(!failures.are_few(a));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(failures.are_few(a));
        drop(failures.attempt(a, None));
        drop(failures.attempt(a, None));
        assert!(!failures.are_few(a));
    }
}
