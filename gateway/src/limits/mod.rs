//! Limits: how much of everything there may be at the same time, and for whom. Counting, shares,
//! rates and queues are here; `admission` applies them to HTTP requests.
//!
//! Before authentication, limits hold for all clients and for each address. After it, they hold for
//! each server.
//!
//! A server that receives 429 or a 5xx may stop sending requests to this homeserver for ten minutes,
//! on every endpoint. So the limits are far above what a well-behaved server needs, bursts wait in a
//! queue, and requests are refused only where one client would displace the others. A request whose
//! client has disconnected, or whose time is up, leaves the queue.

mod answer_memory;
mod counts;
mod eviction;
mod failures;
mod fallback;
mod flags;
mod options;
mod refusals;
mod servers;
mod shares;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    answer_memory::AnswerMemory,
    counts::{CountGuard, Exceeded},
    eviction::{EvictionHandle, run_stream},
    failures::{Attempt, FAILURES_RETRY_AFTER},
    fallback::FallbackLimits,
    servers::{Permit, Servers},
    shares::{Full, Protection, Share, Shares},
};
use self::{
    counts::Counts,
    failures::Failures,
    refusals::Refusals,
    shares::{Amount, ShareBounds},
};
pub use self::{flags::LimitFlags, options::LimitOptions};
use crate::{
    client_address::ClientAddress,
    limiter::{
        Limiter,
        evicting::{ANSWERS, CONNECTIONS, HANDSHAKES, UNAUTHENTICATED},
    },
    log_sampler::LogSampler,
    metrics::Metrics,
    server_name::ServerName,
};

/// Memory for incomplete request heads, in bytes: of all addresses, and of one.
const MAX_HEAD_BYTES_TOTAL: usize = 16 * 1024 * 1024;
const MAX_HEAD_BYTES_PER_ADDRESS: usize = 2 * 1024 * 1024;
/// One owner may have one part in this many of a shared limit.
const PARTS: usize = 4;
/// How many bodies of the largest size one address may have in memory, incomplete or not yet
/// authenticated. A parsed body may take as much memory as fifteen more.
const MAX_LARGEST_BODIES: usize = 16;
/// Pause between two searches for answers that have taken too long.
const LATE_ANSWERS_INTERVAL: Duration = Duration::from_secs(1);
/// When to repeat a request that was refused because all permits are taken. An answer takes
/// milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The client that an answer is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum AnswerOwner {
    /// A server whose request is authenticated.
    Server(ServerName),
    /// A client that is not authenticated.
    Address(ClientAddress),
}

/// A refusal because a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) limiter: Limiter,
    /// When to repeat the request at the earliest.
    pub(crate) retry_after: Duration,
}

/// All limits, and what counts against them.
#[derive(Debug)]
pub(crate) struct Limits {
    options: LimitOptions,
    connections: Shares<ClientAddress>,
    handshakes: Shares<ClientAddress>,
    /// Requests that are not authenticated yet, and the bytes of their bodies.
    unauthenticated: Shares<ClientAddress>,
    failures: Arc<Failures>,
    /// Authenticated requests, waiting ones included.
    requests: Counts,
    /// Answers that have not been written to their clients completely.
    answers: Shares<AnswerOwner>,
    memory: Arc<AnswerMemory>,
    refusals: Refusals,
    log_sampler: LogSampler,
    pub(crate) servers: Servers,
    pub(crate) fallback: FallbackLimits,
}

impl Limits {
    pub(crate) fn new(options: LimitOptions, metrics: &Metrics) -> Self {
        let per_address = options.max_per_address;
        let shares = |name, bounds| Shares::new(name, metrics.clone(), bounds);
        let handshakes = ShareBounds::divided(options.max_handshakes, 0);
        let connections = ShareBounds {
            all: Amount { count: options.max_connections, bytes: MAX_HEAD_BYTES_TOTAL },
            each: Amount { count: per_address, bytes: MAX_HEAD_BYTES_PER_ADDRESS },
        };
        let bodies = options.max_body_bytes.saturating_mul(PARTS * MAX_LARGEST_BODIES);
        let unauthenticated = ShareBounds::divided(options.max_unauthenticated, bodies);
        // One for each request that can be answered or refused at the same time.
        let answers = options.max_requests.saturating_add(options.max_unauthenticated);
        let answers = Shares::new(
            ANSWERS,
            metrics.clone(),
            ShareBounds::divided(answers, options.max_answer_bytes),
        );
        Self {
            connections: shares(CONNECTIONS, connections),
            handshakes: shares(HANDSHAKES, handshakes),
            unauthenticated: shares(UNAUTHENTICATED, unauthenticated),
            failures: Failures::new(options.failure_rate, metrics.clone()),
            requests: Counts::new(options.max_requests, per_address),
            memory: Arc::new(AnswerMemory::new(options.max_answer_bytes, answers.clone())),
            answers,
            servers: Servers::new(&options),
            fallback: FallbackLimits::new(&options, metrics),
            refusals: Refusals::new(options.refusal_rate),
            log_sampler: LogSampler::default(),
            options,
        }
    }

    /// Counts a connection, for as long as the share is held. `None` if the connection must be
    /// closed, without a response: nothing has been received that could be answered.
    pub(crate) fn connection(
        &self,
        peer: IpAddr,
        eviction: EvictionHandle,
    ) -> Option<Arc<Share<ClientAddress>>> {
        let owner = self.owner(peer);
        if owner.is_some_and(|owner| !self.failures.are_few(owner)) {
            return None;
        }
        let share = self.connections.add(owner, 0, eviction);
        if share.is_err()
            && let Some(left_out) = self.log_sampler.sample()
        {
            tracing::warn!(%peer, limiter = CONNECTIONS, left_out, "closed a connection");
        }
        share.ok().map(Arc::new)
    }

    /// Counts a TLS handshake, for as long as the share is held.
    pub(crate) fn handshake(
        &self,
        peer: IpAddr,
        eviction: EvictionHandle,
    ) -> Result<Share<ClientAddress>, Full> {
        self.handshakes.add(self.owner(peer), 0, eviction)
    }

    /// Whether requests from an address may be looked at: not after too many failures.
    pub(crate) fn accepts_requests_from(&self, address: ClientAddress) -> bool {
        self.failures.are_few(address)
    }

    /// Notes a request from an address, on a connection with this peer.
    pub(crate) fn attempt(
        &self,
        address: ClientAddress,
        peer: IpAddr,
        connection: CancellationToken,
    ) -> Attempt {
        // A trusted proxy's connection is shared by many clients, so it is not closed for one.
        let connection = (!self.options.is_trusted(peer)).then_some(connection);
        self.failures.attempt(address, connection)
    }

    /// Notes that a connection with this peer broke, or that its TLS handshake failed.
    pub(crate) fn connection_failed(&self, peer: IpAddr) {
        if let Some(owner) = self.owner(peer) {
            drop(self.failures.attempt(owner, None));
        }
    }

    /// Counts a request that is not authenticated yet, for as long as the share is held.
    pub(crate) fn unauthenticated(
        &self,
        address: Option<ClientAddress>,
        eviction: EvictionHandle,
    ) -> Result<Share<ClientAddress>, Full> {
        self.unauthenticated.add(address, 0, eviction)
    }

    /// Counts an authenticated request, for as long as the guard is held.
    pub(crate) fn request(&self, address: Option<ClientAddress>) -> Result<CountGuard, Limited> {
        self.requests.count(address).map_err(|exceeded| {
            let limiter = match exceeded {
                Exceeded::Total => Limiter::Requests,
                Exceeded::PerAddress => Limiter::RequestsPerAddress,
            };
            Limited { limiter, retry_after: RETRY_AFTER }
        })
    }

    /// Counts an answer, until its last byte has been written or the share is dropped.
    pub(crate) fn answer(
        &self,
        owner: AnswerOwner,
        bytes: usize,
        eviction: EvictionHandle,
    ) -> Result<Share<AnswerOwner>, Full> {
        self.answers.add(Some(owner), bytes, eviction)
    }

    /// The memory for answers.
    pub(crate) fn answer_memory(&self) -> Arc<AnswerMemory> {
        Arc::clone(&self.memory)
    }

    /// Waits until one more request may be refused with 429.
    pub(crate) async fn refusal_turn(&self) {
        self.refusals.turn().await;
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.options.is_trusted(address)
    }

    /// Evicts answers that are not written in time, and requests that are passed through without
    /// progress. Never completes.
    pub(crate) async fn evict_late_answers(&self) {
        let timeout = self.options.answer_timeout;
        loop {
            time::sleep(LATE_ANSWERS_INTERVAL.min(timeout)).await;
            self.answers.evict_older_than(timeout);
            self.fallback.evict_stalled(timeout);
        }
    }

    /// The owner of a connection with this peer. `None` for a trusted proxy, whose connections are
    /// shared by many clients.
    fn owner(&self, peer: IpAddr) -> Option<ClientAddress> {
        (!self.options.is_trusted(peer)).then(|| peer.into())
    }
}
