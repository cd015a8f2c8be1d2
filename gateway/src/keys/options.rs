//! How keys are fetched, and from whom.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::ArgAction;
use ipnet::IpNet;

use crate::{discovery::Network, server_name::ServerName};

/// How keys that are not pinned are fetched.
#[derive(Clone, Debug)]
pub struct Fetching {
    /// How other servers are reached.
    pub network: Network,
    /// Who is asked, in this order, for the keys of a server that does not answer itself.
    pub notaries: Vec<ServerName>,
}

/// The same, as flags.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys of other servers")]
pub struct FetchFlags {
    /// Whether to fetch keys that are not pinned
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_FETCH_KEYS",
        value_name = "BOOL",
        default_value = "true",
        action = ArgAction::Set
    )]
    pub fetch_keys: bool,

    /// Whom to ask for the keys of a server that does not answer itself; may be given several times
    #[arg(long, env = "BACKSCROLL_GATEWAY_NOTARY", value_name = "NAME", value_delimiter = ',')]
    pub notary: Vec<ServerName>,

    /// Who may sign other servers' certificates, PEM, besides those whom browsers trust
    #[arg(long, env = "BACKSCROLL_GATEWAY_FEDERATION_CA", value_name = "FILE")]
    pub federation_ca: Option<PathBuf>,

    /// Addresses to fetch keys from although they are private; may be given several times
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_ALLOW_ADDRESS_RANGE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow_address_range: Vec<IpNet>,
}

impl FetchFlags {
    /// Reads the file of certificates and the system's name servers. None if nothing is fetched.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or holds something that should not be there.
    pub fn into_fetching(self) -> anyhow::Result<Option<Fetching>> {
        if !self.fetch_keys {
            return Ok(None);
        }
        let mut network = Network::system().context("cannot use the system's name servers")?;
        if let Some(path) = &self.federation_ca {
            fs::read(path).and_then(|pem| network.trust(&pem)).with_context(|| {
                format!("cannot take certificate authorities from {}", path.display())
            })?;
        }
        for range in self.allow_address_range {
            network.allow(range);
        }
        Ok(Some(Fetching { network, notaries: self.notary }))
    }
}
