//! The limits that an operator has a reason to set.

use std::net::IpAddr;

use ipnet::IpNet;

use super::LimitOptions;

/// Seconds' worth of [`LimitFlags::server_rate`] that a server may use at once.
const BURST_SECONDS: u32 = 2;

/// Limits, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// Most open connections. Beyond it, the connection that has been idle longest is closed.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.max_connections,
        value_parser = count
    )]
    pub max_connections: usize,

    /// Most connections from one address, and most requests from it at the same time. An IPv6 /64
    /// network counts as one address.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_MAX_PER_ADDRESS",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.max_per_address,
        value_parser = count
    )]
    pub max_per_address: usize,

    /// Reverse proxies whose X-Forwarded-For header is trusted: addresses or CIDR ranges, such as
    /// 10.0.0.0/8. Separate several with commas.
    #[arg(
        long = "trusted-proxy",
        env = "BACKSCROLL_GATEWAY_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Memory for answers, in MiB. One server may use a quarter of it. Beyond it, answers wait, and
    /// answers whose clients do not read them are cut off.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_ANSWER_MEMORY_MIB",
        value_name = "MIB",
        default_value_t = LimitOptions::DEFAULT.max_answer_bytes >> 20,
        value_parser = mib
    )]
    pub answer_memory_mib: usize,

    /// Most requests of all servers that are answered at the same time. Others wait.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.concurrency,
        value_parser = count
    )]
    pub concurrency: usize,

    /// Most requests of one server that are answered at the same time. Others wait.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.server_concurrency,
        value_parser = count
    )]
    pub server_concurrency: usize,

    /// Most requests of one server per second, on average. Twice as many may be received at once.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SERVER_RATE",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.server_rate,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub server_rate: u32,

    /// Most requests that are passed on to the homeserver of --fallback at the same time. Others wait.
    /// One server may have a quarter of them.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FALLBACK_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.fallback_concurrency,
        value_parser = count
    )]
    pub fallback_concurrency: usize,

    /// Most requests of other endpoints that --pass-through passes on at the same time. One address may
    /// have a quarter of them.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_PASS_THROUGH_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = LimitOptions::DEFAULT.pass_through_concurrency,
        value_parser = count
    )]
    pub pass_through_concurrency: usize,
}

impl From<LimitFlags> for LimitOptions {
    fn from(flags: LimitFlags) -> Self {
        let LimitFlags { max_connections, max_per_address, trusted_proxies, .. } = flags;
        Self {
            max_connections,
            max_per_address,
            trusted_proxies,
            max_answer_bytes: flags.answer_memory_mib << 20,
            concurrency: flags.concurrency,
            server_concurrency: flags.server_concurrency,
            server_rate: flags.server_rate,
            server_burst: flags.server_rate.saturating_mul(BURST_SECONDS),
            fallback_concurrency: flags.fallback_concurrency,
            pass_through_concurrency: flags.pass_through_concurrency,
            ..Self::DEFAULT
        }
    }
}

/// Parses a positive number that tokio's semaphores can count.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000_000) => Ok(count),
        _ => Err("expected a number from 1 to 1000000000".to_owned()),
    }
}

/// Parses a size in MiB, of less than a TiB.
fn mib(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(mib @ 1..=1_048_576) => Ok(mib),
        _ => Err("expected a number from 1 to 1048576".to_owned()),
    }
}

/// Parses a network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address or a CIDR range".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        limits: LimitFlags,
    }

    fn read(flags: &[&str]) -> Result<LimitOptions, clap::Error> {
        Program::try_parse_from([&["x"], flags].concat()).map(|it| it.limits.into())
    }

    #[test]
    fn without_flags_the_limits_are_the_defaults() {
        assert_eq!(read(&[]).unwrap(), LimitOptions::default());
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for bad in [
            ["--max-connections", "0"],
            ["--max-connections", "-1"],
            ["--max-connections", "1000000001"],
            ["--answer-memory-mib", "0"],
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
