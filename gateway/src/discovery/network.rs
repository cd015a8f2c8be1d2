//! The outside world, as far as the gateway speaks to it of its own accord: names become
//! addresses, addresses become TLS connections. Every connection passes the list of denied
//! addresses, after resolution and whatever led to it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use ipnet::IpNet;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{self, CertificateDer, pem::PemObject as _},
};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    addresses::Addresses,
    steps::{self, Route, Srv, Target},
};

/// How many addresses of a server are tried.
const MAX_ATTEMPTS: usize = 6;
/// For one of them, TLS included, so that a dead one leaves time for the next.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one name server; it is asked twice.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// How many answers of name servers are remembered, as long as these allow.
const DNS_CACHE: u64 = 1_024;

/// How the gateway reaches other servers.
#[derive(Clone, Debug)]
pub struct Network {
    resolver: TokioResolver,
    roots: RootCertStore,
    allowed: Vec<IpNet>,
    /// How long one answer may take: names, connections, redirects and all. Honest servers take
    /// one second; a host that accepts and says nothing holds one of the turns for so long.
    pub timeout: Duration,
    /// What to connect to in place of an address.
    pub dial: Dial,
}

/// A last turn on the way to an address, behind the list of denied ones.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>);

/// Why there is no answer. For the log; strangers learn nothing of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("no name server helps with {name}: {cause}")]
    Dns { name: String, cause: NetError },
    #[error("{0} is not an address to connect to")]
    Denied(IpAddr),
    #[error("no certificate can be for {0}")]
    Name(String),
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer in time")]
    Slow,
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is not whole")]
    BrokenOff,
    #[error("status {0}")]
    Status(u16),
    #[error("redirected to {0}")]
    Redirect(&'static str),
    #[error("the answer is not what it should be")]
    Malformed,
}

impl Network {
    /// With the system's name servers, and the roots that browsers trust.
    ///
    /// # Errors
    ///
    /// The system's configuration of name servers cannot be read.
    pub fn system() -> io::Result<Self> {
        Self::new(TokioResolver::builder_tokio().map_err(io::Error::other)?)
    }

    /// With name servers of one's own.
    ///
    /// # Errors
    ///
    /// The resolver cannot be made.
    pub fn with_name_servers(addresses: &[SocketAddr]) -> io::Result<Self> {
        let servers = addresses.iter().map(|address| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Self::new(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    }

    fn new(mut resolver: ResolverBuilder<TokioRuntimeProvider>) -> io::Result<Self> {
        let options = resolver.options_mut();
        options.timeout = DNS_TIMEOUT;
        options.cache_size = DNS_CACHE;
        Ok(Self {
            resolver: resolver.build().map_err(io::Error::other)?,
            roots: RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() },
            allowed: Vec::new(),
            timeout: Duration::from_secs(6),
            dial: Dial::new(|address| address),
        })
    }

    /// Trusts the certificates of a PEM file, too.
    ///
    /// # Errors
    ///
    /// Not PEM, without a certificate, or one in it that is no root.
    pub fn trust(&mut self, pem: &[u8]) -> io::Result<()> {
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(io::Error::other)?;
            self.roots.add(certificate).map_err(io::Error::other)?;
            found = true;
        }
        if found { Ok(()) } else { Err(io::Error::other("no certificate in it")) }
    }

    /// Allows connections to these addresses, whatever range they are in.
    pub fn allow(&mut self, range: IpNet) {
        self.allowed.push(range);
    }

    pub(super) fn connector(self) -> Connector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has ciphers for both versions of TLS")
            .with_root_certificates(self.roots)
            .with_no_client_auth();
        Connector {
            resolver: self.resolver,
            tls: TlsConnector::from(Arc::new(tls)),
            addresses: Addresses::new(self.allowed),
            timeout: self.timeout,
            dial: self.dial,
        }
    }
}

impl Dial {
    /// Connects to what `turn` makes of an address.
    pub fn new(turn: impl Fn(SocketAddr) -> SocketAddr + Send + Sync + 'static) -> Self {
        Self(Arc::new(turn))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// Makes connections.
pub(super) struct Connector {
    resolver: TokioResolver,
    tls: TlsConnector,
    addresses: Addresses,
    pub(super) timeout: Duration,
    dial: Dial,
}

impl Connector {
    /// The targets of a name's SRV records, in the order in which to try them; none when there
    /// are none, or no name server that says so: the certificate is the same either way.
    pub(super) async fn srv(&self, service: &str, name: &str) -> Vec<(String, u16)> {
        let records = match self.resolver.srv_lookup(format!("{service}.{name}.")).await {
            Ok(records) => records,
            Err(error) => {
                if !error.is_no_records_found() {
                    tracing::debug!(%error, name, "cannot look up SRV records");
                }
                return Vec::new();
            }
        };
        let records = records.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                weight: srv.weight,
                target: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                port: srv.port,
            }),
            _ => None,
        });
        steps::in_order(records.collect(), |n| rand::random_range(0..=n))
    }

    /// The first connection that can be made. The certificate is checked.
    pub(super) async fn connect(&self, route: &Route) -> Result<TlsStream<TcpStream>, Unreachable> {
        let server_name = match &route.tls {
            Target::Address(address) => pki_types::ServerName::from(*address),
            Target::Name(name) => pki_types::ServerName::try_from(name.clone())
                .map_err(|_| Unreachable::Name(name.clone()))?,
        };
        let mut attempts = 0;
        let mut failure = Unreachable::NoAddress(route.host.clone());
        for (target, port) in &route.targets {
            let addresses = match self.addresses_of(target).await {
                Ok(addresses) => addresses,
                Err(unreachable) => {
                    failure = unreachable;
                    continue;
                }
            };
            for address in addresses {
                if !self.addresses.permits(address) {
                    failure = Unreachable::Denied(address);
                    continue;
                }
                if attempts == MAX_ATTEMPTS {
                    return Err(failure);
                }
                attempts += 1;
                let attempt = async {
                    let dialled = (self.dial.0)(SocketAddr::new(address, *port));
                    let stream = TcpStream::connect(dialled).await?;
                    self.tls.connect(server_name.clone(), stream).await
                };
                match time::timeout(ATTEMPT_TIMEOUT, attempt).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => failure = Unreachable::Connect(error),
                    Err(_elapsed) => failure = Unreachable::Slow,
                }
            }
        }
        Err(failure)
    }

    async fn addresses_of(&self, target: &Target) -> Result<Vec<IpAddr>, Unreachable> {
        let name = match target {
            Target::Address(address) => return Ok(vec![*address]),
            Target::Name(name) => name,
        };
        // The final dot keeps the system's search list out of it.
        match self.resolver.lookup_ip(format!("{name}.")).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(cause) if cause.is_no_records_found() => Err(Unreachable::NoAddress(name.clone())),
            Err(cause) => Err(Unreachable::Dns { name: name.clone(), cause }),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
