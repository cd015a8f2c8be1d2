//! The bounds: flags, variables, defaults.

use std::{net::IpAddr, num::ParseIntError, time::Duration};

use ipnet::IpNet;

/// How much at once, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Most connections; beyond that one gives way that has long asked nothing
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value = "4096",
        value_parser = count
    )]
    pub max_connections: usize,

    /// Most connections from one address, and most requests at the same time (IPv6: one /64)
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_PER_ADDRESS",
        value_name = "COUNT",
        default_value = "512",
        value_parser = count
    )]
    pub max_per_address: usize,

    /// Proxies whose X-Forwarded-For says which address a request comes from, such as 10.0.0.0/8
    #[arg(
        long = "trusted-proxy",
        env = "BACKSCROLL_GATEWAY_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Most requests of known servers at the same time, those that wait included
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_REQUESTS",
        value_name = "COUNT",
        default_value = "1024",
        value_parser = count
    )]
    pub max_requests: usize,

    /// Most requests at the same time of which it is not known yet who asks, a quarter of them from
    /// one address; beyond that the oldest gives way
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_UNAUTHENTICATED",
        value_name = "COUNT",
        default_value = "512",
        value_parser = count
    )]
    pub max_unauthenticated: usize,

    /// Most requests a second from one address that end with nobody being known, over time; four times
    /// as many at once
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FAILURE_RATE",
        value_name = "COUNT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub failure_rate: u32,

    /// Most TLS handshakes at the same time, a quarter of them from one address; beyond that the
    /// oldest gives way
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_HANDSHAKES",
        value_name = "COUNT",
        default_value = "512",
        value_parser = count
    )]
    pub max_handshakes: usize,

    /// Most bytes of answers that are coming from the history service or have not been taken yet, a
    /// quarter of them for one server; beyond that some wait, and what is not taken gives way
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_ANSWER_BYTES",
        value_name = "BYTES",
        default_value = "33554432",
        value_parser = count
    )]
    pub max_answer_bytes: usize,

    /// How long it may take until an answer has been taken
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_ANSWER_TIMEOUT",
        value_name = "SECONDS",
        default_value = "60",
        value_parser = crate::config::seconds
    )]
    pub answer_timeout: Duration,

    /// Largest head of a request; somewhat more may fit
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_HEAD_BYTES",
        value_name = "BYTES",
        default_value = "65536",
        value_parser = head_bytes
    )]
    pub max_head_bytes: usize,

    /// Largest body of a request
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_BODY_BYTES",
        value_name = "BYTES",
        default_value = "262144",
        value_parser = count
    )]
    pub max_body_bytes: usize,

    /// How long the head of a request may take, an idle connection's wait for it included
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_HEAD_TIMEOUT",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = crate::config::seconds
    )]
    pub head_timeout: Duration,

    /// How long the body of a request may take
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_BODY_TIMEOUT",
        value_name = "SECONDS",
        default_value = "30",
        value_parser = crate::config::seconds
    )]
    pub body_timeout: Duration,

    /// Most requests of everybody that are answered at the same time; others wait for their turn
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_CONCURRENCY",
        value_name = "COUNT",
        default_value = "128",
        value_parser = count
    )]
    pub concurrency: usize,

    /// Most 429s in a second; more are held back, up to ten seconds each, so that whoever asks
    /// again at once does so less often
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_REFUSAL_RATE",
        value_name = "COUNT",
        default_value_t = 400,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub refusal_rate: u32,

    /// Most requests of one server that are answered at the same time
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_CONCURRENCY",
        value_name = "COUNT",
        default_value = "16",
        value_parser = count
    )]
    pub server_concurrency: usize,

    /// Most requests of one server in a second, over time
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_RATE",
        value_name = "COUNT",
        default_value_t = 500,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub server_rate: u32,

    /// Most requests of one server that may come at once before the rate holds
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_BURST",
        value_name = "COUNT",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub server_burst: u32,

    /// Most requests of one server that wait for their turn
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_QUEUE",
        value_name = "COUNT",
        default_value = "256",
        value_parser = count
    )]
    pub server_queue: usize,

    /// How long a request may wait for its server's turn
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_QUEUE_TIMEOUT",
        value_name = "SECONDS",
        default_value = "10",
        value_parser = crate::config::seconds
    )]
    pub server_queue_timeout: Duration,

    /// Most servers that are remembered; those that ask nothing are forgotten first
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_SERVERS",
        value_name = "COUNT",
        default_value = "10000",
        value_parser = count
    )]
    pub max_servers: usize,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            max_per_address: 512,
            trusted_proxies: Vec::new(),
            max_requests: 1_024,
            max_unauthenticated: 512,
            failure_rate: 50,
            max_handshakes: 512,
            max_answer_bytes: 32 * 1024 * 1024,
            answer_timeout: Duration::from_secs(60),
            max_head_bytes: 64 * 1024,
            max_body_bytes: 256 * 1024,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            concurrency: 128,
            refusal_rate: 400,
            server_concurrency: 16,
            server_rate: 500,
            server_burst: 1_000,
            server_queue: 256,
            server_queue_timeout: Duration::from_secs(10),
            max_servers: 10_000,
        }
    }
}

impl LimitOptions {
    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// At least one; no more than tokio's semaphores can count.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000_000) => Ok(count),
        Ok(_) => Err("expected a number from 1 to 1000000000".to_owned()),
        Err(error) => Err(ParseIntError::to_string(&error)),
    }
}

/// hyper does not work with less.
fn head_bytes(text: &str) -> Result<usize, String> {
    match count(text)? {
        bytes if bytes < 8_192 => Err("expected at least 8192".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| "expected an address or a CIDR".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn read(flags: &[&str]) -> Result<LimitOptions, clap::Error> {
        Flags::try_parse_from([&["x"], flags].concat()).map(|it| it.limits)
    }

    #[test]
    fn the_defaults_are_those_of_the_flags() {
        assert_eq!(read(&[]).unwrap(), LimitOptions::default());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for bad in [
            ["--max-requests", "0"],
            ["--max-requests", "-1"],
            ["--max-requests", "1000000001"],
            ["--max-head-bytes", "8191"],
            ["--server-rate", "0"],
            ["--trusted-proxy", "10.0.0.0/33"],
            ["--trusted-proxy", "proxy.example"],
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        let options = read(&["--trusted-proxy", "10.0.0.0/8,::1"]).unwrap();
        for (address, trusted) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("::1", true), ("::2", false)]
        {
            assert_eq!(options.is_trusted(address.parse().unwrap()), trusted, "{address}");
        }
    }
}
