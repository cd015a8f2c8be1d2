//! Limits on what is passed on to the homeserver.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    AnswerOwner, CountGuard, EvictionHandle, LimitOptions, Limited, PARTS, Permit, RETRY_AFTER,
    Servers, Share, Shares,
    counts::Counts,
    shares::{Full, ShareBounds},
};
use crate::{
    client_address::ClientAddress,
    limiter::{Limiter, evicting::PASS_THROUGH},
    metrics::Metrics,
    server_name::ServerName,
};

/// Most requests of one server that wait.
const SERVER_QUEUE: usize = 16;

/// Limits on what is passed on to the homeserver.
#[derive(Debug)]
pub(crate) struct FallbackLimits {
    /// Requests of authenticated servers.
    servers: Servers,
    /// Requests that only the homeserver can authenticate.
    unauthenticated: Counts,
    /// Requests of endpoints that the gateway does not answer itself.
    passed_through: Shares<AnswerOwner>,
    metrics: Metrics,
}

impl FallbackLimits {
    pub(super) fn new(options: &LimitOptions, metrics: &Metrics) -> Self {
        let part = |count: usize| (count / PARTS).max(1);
        let concurrency = options.fallback_concurrency;
        let servers = LimitOptions {
            concurrency,
            server_concurrency: part(concurrency),
            server_queue: SERVER_QUEUE,
            // Rates were checked before.
            server_rate: u32::MAX,
            server_burst: u32::MAX,
            ..options.clone()
        };
        let unauthenticated = part(concurrency);
        let passed_through = ShareBounds::divided(options.pass_through_concurrency, 0);
        Self {
            servers: Servers::new(&servers),
            unauthenticated: Counts::new(unauthenticated, part(unauthenticated)),
            passed_through: Shares::new(PASS_THROUGH, metrics.clone(), passed_through),
            metrics: metrics.clone(),
        }
    }

    /// Waits for the permit to pass on a request of an authenticated server, until `until` at the
    /// latest. One server has at most a quarter of all permits.
    pub(crate) async fn admit(
        &self,
        origin: &ServerName,
        until: Instant,
    ) -> Result<Permit, Limited> {
        let admitted = self.servers.admit(origin, until).await;
        admitted.map_err(|Limited { retry_after, .. }| Limited {
            limiter: Limiter::Fallback,
            retry_after: retry_after.max(RETRY_AFTER),
        })
    }

    /// Counts a request that only the homeserver can authenticate. `None` if there are too many: of
    /// all addresses a quarter of the permits of authenticated servers, of one a quarter of these.
    pub(crate) fn unauthenticated(&self, address: ClientAddress) -> Option<CountGuard> {
        let counted = self.unauthenticated.count(Some(address)).ok();
        if counted.is_none() {
            self.metrics.limited(Limiter::Fallback.name());
        }
        counted
    }

    /// Counts a request of an endpoint that the gateway does not answer itself, until its answer has
    /// been written.
    pub(crate) fn pass_through(
        &self,
        address: ClientAddress,
        eviction: EvictionHandle,
    ) -> Result<Arc<Share<AnswerOwner>>, Limited> {
        let share = self.passed_through.add(Some(AnswerOwner::Address(address)), 0, eviction);
        let limited = |Full| Limited { limiter: Limiter::PassThrough, retry_after: RETRY_AFTER };
        share.map(Arc::new).map_err(limited)
    }

    /// Evicts requests that have made no progress for this time.
    pub(super) fn evict_stalled(&self, age: Duration) {
        self.passed_through.evict_all_stalled(age);
    }
}
