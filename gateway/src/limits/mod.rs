//! How much at once, and for whom. What every caller can take part in is bounded before anybody
//! is authenticated; what one server may have, after that.
//!
//! Peers that hear 429 or a 5xx stop talking to us for ten minutes, on everything. So the bounds
//! are far above what an honest server needs, bursts wait for their turn, and a refusal is for
//! callers who would only push the others out. Whoever has gone, or has waited for too long, does
//! not wait any more: what is done is done for somebody.

mod addresses;
mod answer_memory;
mod counts;
mod cut;
mod failures;
mod options;
mod refusals;
mod requests;

mod servers;
mod shares;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::HeaderMap;
use tokio::time;
use tokio_util::sync::CancellationToken;

pub use self::options::LimitOptions;
use self::{
    addresses::client,
    counts::{Counts, group},
    failures::Failures,
    refusals::Refusals,
    shares::{Amount, Bounds},
};
pub(crate) use self::{
    answer_memory::AnswerMemory,
    cut::{Cut, run_stream},
    failures::Attempt,
    requests::{Admitted, Caller, Held, Holds, Stranger, admit, authenticated},
    servers::{Place, Servers},
    shares::{Full, Kept, Share, Shares},
};
use crate::{metrics::Metrics, server_name::ServerName, sparing::Sparing};

/// What is given way to is counted under these names, beside those of [`Limiter`].
const CONNECTIONS: &str = "connections";
const HANDSHAKES: &str = "handshakes";
const UNAUTHENTICATED: &str = "unauthenticated";
const ANSWERS: &str = "answers";
const FAILURES: &str = "failures";
/// Frames of HTTP/2 that ask for nothing.
pub(crate) const CONTROL_FRAMES: &str = "control_frames";
pub(crate) const ENDINGS: [&str; 5] =
    [CONNECTIONS, HANDSHAKES, UNAUTHENTICATED, ANSWERS, CONTROL_FRAMES];

/// Heads that have not come whole may take so much memory: of everybody, and of one address.
const MAX_HEADS_BYTES: usize = 16 * 1024 * 1024;
const MAX_HEADS_BYTES_PER_ADDRESS: usize = 2 * 1024 * 1024;
/// The part of a bound that is one owner's at most.
const SHARE: usize = 4;
/// How many of the largest bodies of one address may wait to be whole and authenticated. One of them
/// may become as much as fifteen more when it is parsed.
const MAX_LARGEST_BODIES: usize = 16;
/// How often answers that nobody takes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// Of a server that is known by its signature.
    Server(ServerName),
    /// Of whoever asked from there.
    Address(IpAddr),
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limiter {
    /// Requests of everybody.
    Requests,
    /// Requests of everybody that are being answered, after waiting for a place.
    Concurrency,
    /// Requests from one address.
    RequestsPerAddress,
    /// Requests of one server that wait.
    ServerQueue,
    /// Requests of one server at the same time.
    ServerConcurrency,
    /// Requests of one server in a second.
    ServerRate,
    /// Servers that ask at the same time.
    Servers,
    /// Requests from one address that nobody was known by.
    Failures,
}

impl Limiter {
    pub(crate) const ALL: [Self; 8] = [
        Self::Requests,
        Self::Concurrency,
        Self::RequestsPerAddress,
        Self::ServerQueue,
        Self::ServerConcurrency,
        Self::ServerRate,
        Self::Servers,
        Self::Failures,
    ];

    /// For the log and the counts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Concurrency => "concurrency",
            Self::RequestsPerAddress => "requests_per_address",
            Self::ServerQueue => "server_queue",
            Self::ServerConcurrency => "server_concurrency",
            Self::ServerRate => "server_rate",
            Self::Servers => "servers",
            Self::Failures => FAILURES,
        }
    }

    /// For the caller.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Requests => "Too many requests are being answered at the moment",
            Self::Concurrency => {
                "Too many requests are being answered at the moment: this one waited for too long"
            }
            Self::RequestsPerAddress => "Too many requests from your address at the same time",
            Self::ServerQueue => "Too many requests of your server are waiting",
            Self::ServerConcurrency => {
                "Too many requests of your server at the same time: this one waited for too long"
            }
            Self::ServerRate => "Too many requests of your server in a short time",
            Self::Servers => "Too many servers are asking at the moment",
            Self::Failures => "Too many requests from your address that nobody could be known by",
        }
    }
}

/// A refusal for the sake of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) limiter: Limiter,
    /// When asking again may be of use.
    pub(crate) retry_after: Duration,
}

/// All bounds, and what counts against them.
#[derive(Debug)]
pub(crate) struct Limits {
    options: LimitOptions,
    connections: Shares<IpAddr>,
    handshakes: Shares<IpAddr>,
    /// Requests of which it is not known who asks, and what of their bodies has come.
    strangers: Shares<IpAddr>,
    failures: Arc<Failures>,
    /// Requests of those who are known.
    requests: Counts,
    /// Answers whose last byte has not been taken.
    answers: Shares<Owner>,
    memory: Arc<AnswerMemory>,
    refusals: Refusals,
    lines: Sparing,
    pub(crate) servers: Servers,
}

impl Limits {
    pub(crate) fn new(options: LimitOptions, metrics: &Metrics) -> Self {
        let per_address = options.max_per_address;
        let shares = |name, bounds| Shares::new(name, metrics.clone(), bounds);
        let handshakes = Bounds::shared(options.max_handshakes, 0);
        let connections = Bounds {
            all: Amount { count: options.max_connections, bytes: MAX_HEADS_BYTES },
            each: Amount { count: per_address, bytes: MAX_HEADS_BYTES_PER_ADDRESS },
        };
        let bodies = options.max_body_bytes.saturating_mul(SHARE * MAX_LARGEST_BODIES);
        let strangers = Bounds::shared(options.max_unauthenticated, bodies);
        // As many as are answered and refused at the same time.
        let answers = options.max_requests.saturating_add(options.max_unauthenticated);
        let answers = Shares::new(
            ANSWERS,
            metrics.clone(),
            Bounds::shared(answers, options.max_answer_bytes),
        );
        Self {
            connections: shares(CONNECTIONS, connections),
            handshakes: shares(HANDSHAKES, handshakes),
            strangers: shares(UNAUTHENTICATED, strangers),
            failures: Failures::new(options.failure_rate, metrics.clone()),
            requests: Counts::new(options.max_requests, per_address),
            memory: Arc::new(AnswerMemory::new(options.max_answer_bytes, answers.clone())),
            answers,
            servers: Servers::new(&options),
            refusals: Refusals::new(options.refusal_rate),
            lines: Sparing::default(),
            options,
        }
    }

    /// A connection's share, to be held as long as it is open. None is to be closed: nobody has
    /// said anything on it that could be answered.
    pub(crate) fn connection(&self, peer: IpAddr, cut: Cut) -> Option<Arc<Share<IpAddr>>> {
        // All that a proxy carries comes from one address: it is told apart by request.
        let owner = (!self.options.is_trusted(peer)).then(|| group(peer));
        if owner.is_some_and(|owner| !self.failures.are_few(owner)) {
            return None;
        }
        let share = self.connections.add(owner, 0, cut);
        if share.is_err()
            && let Some(left_out) = self.lines.line()
        {
            tracing::warn!(%peer, limiter = CONNECTIONS, left_out, "closed a connection");
        }
        share.ok().map(Arc::new)
    }

    /// A request from an address, on a connection with this peer.
    pub(crate) fn attempt(
        &self,
        address: IpAddr,
        peer: IpAddr,
        connection: CancellationToken,
    ) -> Attempt {
        // What a proxy carries is not only this one's.
        let connection = (!self.options.is_trusted(peer)).then_some(connection);
        self.failures.attempt(address, connection)
    }

    /// A connection with this peer broke, or no TLS could be made of it.
    pub(crate) fn failed(&self, peer: IpAddr) {
        if !self.options.is_trusted(peer) {
            drop(self.failures.attempt(group(peer), None));
        }
    }

    /// A TLS handshake's share.
    pub(crate) fn handshake(&self, peer: IpAddr, cut: Cut) -> Result<Share<IpAddr>, Full> {
        let owner = (!self.options.is_trusted(peer)).then(|| group(peer));
        self.handshakes.add(owner, 0, cut)
    }

    /// An answer's share, to be held until its last byte has been taken.
    pub(crate) fn answer(
        &self,
        owner: Owner,
        bytes: usize,
        cut: Cut,
    ) -> Result<Share<Owner>, Full> {
        self.answers.add(Some(owner), bytes, cut)
    }

    /// Memory for answers.
    pub(crate) fn memory(&self) -> Arc<AnswerMemory> {
        Arc::clone(&self.memory)
    }

    /// The address that a request came from, or its network.
    pub(crate) fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        group(client(&self.options, peer, headers))
    }

    /// Cuts answers that are not taken in time; never ready.
    pub(crate) async fn cut_late_answers(&self) {
        let timeout = self.options.answer_timeout;
        loop {
            time::sleep(LOOK_EVERY.min(timeout)).await;
            self.answers.cut_older_than(timeout);
        }
    }
}
