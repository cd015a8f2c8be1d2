//! The names of all limits, as metrics, logs and clients see them.

/// A limit that a request has reached. The request is refused with status 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limiter {
    /// Authenticated requests of all servers, waiting ones included.
    Requests,
    /// Requests of all servers that are answered at the same time. The request has waited.
    Concurrency,
    /// Authenticated requests from one address.
    RequestsPerAddress,
    /// Waiting requests of one server.
    ServerQueue,
    /// Requests of one server that are answered at the same time. The request has waited.
    ServerConcurrency,
    /// Requests of one server per second.
    ServerRate,
    /// Servers with requests at the same time.
    Servers,
    /// Unauthenticated requests from one address per second.
    Failures,
    /// Requests that are passed on to the homeserver. The request has waited.
    Fallback,
    /// Requests of endpoints that the gateway does not answer itself.
    PassThrough,
}

/// Limits that do not refuse the new request or connection, but evict an old one.
pub(crate) mod evicting {
    pub(crate) const CONNECTIONS: &str = "connections";
    pub(crate) const HANDSHAKES: &str = "handshakes";
    pub(crate) const UNAUTHENTICATED: &str = "unauthenticated";
    /// Requests that are passed through while their bodies are received, or their answers sent.
    pub(crate) const PASS_THROUGH: &str = "pass_through";
    pub(crate) const ANSWERS: &str = "answers";
    /// HTTP/2 frames that are not part of a request.
    pub(crate) const CONTROL_FRAMES: &str = "control_frames";
}

/// The names of all limits.
pub(crate) const NAMES: [&str; 15] = [
    Limiter::Requests.name(),
    Limiter::Concurrency.name(),
    Limiter::RequestsPerAddress.name(),
    Limiter::ServerQueue.name(),
    Limiter::ServerConcurrency.name(),
    Limiter::ServerRate.name(),
    Limiter::Servers.name(),
    Limiter::Failures.name(),
    Limiter::Fallback.name(),
    Limiter::PassThrough.name(),
    evicting::CONNECTIONS,
    evicting::HANDSHAKES,
    evicting::UNAUTHENTICATED,
    evicting::ANSWERS,
    evicting::CONTROL_FRAMES,
];

impl Limiter {
    /// The name in metrics and in the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Concurrency => "concurrency",
            Self::RequestsPerAddress => "requests_per_address",
            Self::ServerQueue => "server_queue",
            Self::ServerConcurrency => "server_concurrency",
            Self::ServerRate => "server_rate",
            Self::Servers => "servers",
            Self::Failures => "failures",
            Self::Fallback => "fallback",
            Self::PassThrough => evicting::PASS_THROUGH,
        }
    }

    /// The text of the refusal, for the client.
    pub(crate) const fn message(self) -> &'static str {
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
            Self::Failures => "Too many requests from your address failed authentication",
            Self::Fallback => {
                "Too many requests are being answered by the homeserver at the moment"
            }
            Self::PassThrough => {
                "Too many requests to the homeserver are being passed on at the moment"
            }
        }
    }
}
