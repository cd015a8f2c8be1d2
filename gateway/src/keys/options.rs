//! How keys of other servers are fetched.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::ArgAction;
use ipnet::IpNet;

use crate::{discovery::Network, server_name::ServerName};

/// How keys that are not pinned are fetched.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// How other servers are reached.
    pub network: Network,
    /// Servers that are asked, in this order, for the keys of a server that does not answer.
    pub notaries: Vec<ServerName>,
}

/// How keys are fetched, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys of other servers")]
pub struct FetchFlags {
    /// Whether to fetch keys that are not pinned.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FETCH_KEYS",
        value_name = "BOOL",
        default_value = "true",
        action = ArgAction::Set
    )]
    pub fetch_keys: bool,

    /// A server to ask for the keys of servers that do not answer. May be given several times.
    #[arg(long, env = "BACKSCROLL_GATEWAY_NOTARY", value_name = "NAME", value_delimiter = ',')]
    pub notary: Vec<ServerName>,

    /// Additional certificate authorities for other servers, as PEM. Authorities that browsers trust
    /// are always accepted.
    #[arg(long, env = "BACKSCROLL_GATEWAY_FEDERATION_CA", value_name = "FILE")]
    pub federation_ca: Option<PathBuf>,

    /// Private addresses to which connections for keys are allowed. May be given several times.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_ALLOW_ADDRESS_RANGE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow_address_range: Vec<IpNet>,
}

impl FetchFlags {
    /// Reads the file of certificates and the system's name servers. `None` if no keys are fetched.
    ///
    /// # Errors
    /// When one of them cannot be read or is not valid.
    pub fn into_fetching(self) -> anyhow::Result<Option<FetchOptions>> {
        if !self.fetch_keys {
            return Ok(None);
        }
        let mut network = Network::system().context("cannot use the system's name servers")?;
        if let Some(path) = &self.federation_ca {
            fs::read(path)
                .and_then(|pem| network.trust(&pem))
                .with_context(|| format!("cannot use --federation-ca {}", path.display()))?;
        }
        for range in self.allow_address_range {
            network.allow(range);
        }
        Ok(Some(FetchOptions { network, notaries: self.notary }))
    }
}
