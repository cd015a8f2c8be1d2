//! How much at once, and for whom. What every caller can take part in is bounded before anybody
//! is authenticated; what one server may have, after that.
//!
//! Peers that hear 429 or a 5xx stop talking to us for ten minutes, on everything. So the bounds
//! are far above what an honest server needs, bursts wait for their turn, and a refusal is for
//! callers who would only push the others out. Whoever has gone, or has waited for too long, does
//! not wait any more: what is done is done for somebody.

mod addresses;
mod counts;
mod options;
mod refusals;
mod requests;
mod servers;

use std::{net::IpAddr, time::Duration};

pub use self::options::LimitOptions;
pub(crate) use self::{addresses::Peer, requests::admit, servers::Servers};
use self::{
    counts::{Counted, Counts},
    refusals::Refusals,
};
use crate::sparing::Sparing;

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
}

impl Limiter {
    pub(crate) const ALL: [Self; 7] = [
        Self::Requests,
        Self::Concurrency,
        Self::RequestsPerAddress,
        Self::ServerQueue,
        Self::ServerConcurrency,
        Self::ServerRate,
        Self::Servers,
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
    connections: Counts,
    requests: Counts,
    refusals: Refusals,
    lines: Sparing,
    pub(crate) servers: Servers,
}

impl Limits {
    pub(crate) fn new(options: LimitOptions) -> Self {
        let per_address = options.max_per_address;
        Self {
            connections: Counts::new(options.max_connections, per_address),
            requests: Counts::new(options.max_requests, per_address),
            servers: Servers::new(&options),
            refusals: Refusals::new(options.refusal_rate),
            lines: Sparing::default(),
            options,
        }
    }

    /// Counts a connection for as long as the answer is held. None is to be closed: nobody has
    /// said anything on it that could be answered.
    pub(crate) fn connection(&self, peer: IpAddr) -> Option<Counted> {
        let trusted = self.options.is_trusted(peer);
        // All that a proxy carries comes from one address: it is told apart by request.
        let counted = self.connections.count((!trusted).then_some(peer));
        if let Err(which) = counted
            && let Some(left_out) = self.lines.line()
        {
            let limiter = which.of_connections();
            tracing::warn!(%peer, limiter, left_out, "closed a connection");
        }
        counted.ok()
    }
}
