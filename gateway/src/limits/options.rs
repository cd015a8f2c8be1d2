//! The values of all limits.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

/// The values of all limits. [`LimitFlags`](super::LimitFlags) are those that an operator has a
/// reason to set; the others are the same for everyone, and can be set where the gateway is embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Most open connections. Beyond it, the connection without requests for the longest time is
    /// closed.
    pub max_connections: usize,
    /// Most connections from one address, and most authenticated requests at the same time. An IPv6
    /// network of 64 bits counts as one address.
    pub max_per_address: usize,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Most authenticated requests at the same time, waiting ones included.
    pub max_requests: usize,
    /// Most requests at the same time that are not authenticated yet; a quarter of them from one
    /// address. Beyond it, the oldest is evicted.
    pub max_unauthenticated: usize,
    /// Most requests from one address per second that fail authentication; four times as many at
    /// once.
    pub failure_rate: u32,
    /// Most TLS handshakes at the same time; a quarter of them from one address. Beyond it, the
    /// oldest is evicted.
    pub max_handshakes: usize,
    /// Memory for answers in bytes, from when they are received from the history service until they
    /// are written to their clients; a quarter of it for one server.
    pub max_answer_bytes: usize,
    /// Longest time until an answer has been written to its client.
    pub answer_timeout: Duration,
    /// Largest head of a request, in bytes. hyper needs at least 8,192, and grows its buffer by
    /// doubling, so that somewhat larger heads may fit.
    pub max_head_bytes: usize,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Longest time for the head of a request, and for an idle connection.
    pub head_timeout: Duration,
    /// Longest time for the body of a request.
    pub body_timeout: Duration,
    /// Most requests of all servers that are answered at the same time. Others wait.
    pub concurrency: usize,
    /// Most refusals with status 429 per second. Others wait, up to ten seconds each.
    pub refusal_rate: u32,
    /// Most requests of one server that are answered at the same time. Others wait.
    pub server_concurrency: usize,
    /// Most requests of one server per second, on average.
    pub server_rate: u32,
    /// Most requests of one server at once, before [`Self::server_rate`] holds.
    pub server_burst: u32,
    /// Most requests of one server that wait.
    pub server_queue: usize,
    /// Longest wait of a request for its server's permit.
    pub server_queue_timeout: Duration,
    /// Most requests of authenticated servers that are passed on to the homeserver at the same time; a
    /// quarter of them of one server. Others wait. In addition, a quarter of this number may be
    /// requests that only the homeserver can authenticate.
    pub fallback_concurrency: usize,
    /// Most requests of endpoints that the gateway does not answer itself, which are passed on to the
    /// homeserver at the same time; a quarter of them from one address.
    pub pass_through_concurrency: usize,
    /// Most servers that are kept. Beyond it, servers without requests are removed.
    pub max_servers: usize,
}

impl LimitOptions {
    /// The default values.
    pub const DEFAULT: Self = Self {
        max_connections: 4_096,
        max_per_address: 512,
        trusted_proxies: Vec::new(),
        max_requests: 1_024,
        max_unauthenticated: 512,
        failure_rate: 50,
        max_handshakes: 512,
        max_answer_bytes: 32 << 20,
        answer_timeout: Duration::from_secs(60),
        max_head_bytes: 64 << 10,
        max_body_bytes: 256 << 10,
        head_timeout: Duration::from_secs(30),
        body_timeout: Duration::from_secs(30),
        concurrency: 128,
        refusal_rate: 400,
        server_concurrency: 16,
        server_rate: 500,
        server_burst: 1_000,
        server_queue: 256,
        server_queue_timeout: Duration::from_secs(10),
        fallback_concurrency: 32,
        pass_through_concurrency: 512,
        max_servers: 10_000,
    };

    /// Whether an address is that of a trusted proxy.
    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}
