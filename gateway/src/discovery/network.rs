//! Resolves names to addresses, and opens TLS connections to them. Every address is checked against the
//! denied ranges, after resolution.

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

/// Most addresses of a server that are tried.
const MAX_ATTEMPTS: usize = 6;
/// Longest time for one address, TLS included, so that there is time for the next one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for one response of a name server, which is asked twice.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// Most DNS responses that are cached, for as long as they are valid.
const DNS_CACHE: u64 = 1_024;

/// How the gateway reaches other servers.
#[derive(Clone, Debug)]
pub struct Network {
    resolver: TokioResolver,
    roots: RootCertStore,
    allowed: Vec<IpNet>,
    /// Longest time for one response, with all lookups, connections and redirects. Usual servers take
    /// one second. A host that accepts connections and never responds uses one turn for this time.
    pub timeout: Duration,
    /// Maps the address to connect to.
    pub dial: Dial,
}

/// Maps each address to the one that is connected to, after denied addresses were refused. Tests map
/// addresses to local ports.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>);

/// Why there is no response. For the log only: clients must not learn about the network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("cannot look up {name}: {cause}")]
    Dns { name: String, cause: NetError },
    #[error("{0} is a denied address")]
    Denied(IpAddr),
    #[error("{0} cannot be the name in a certificate")]
    Name(String),
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("no response in time")]
    Slow,
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the response is incomplete")]
    BrokenOff,
    #[error("status {0}")]
    Status(u16),
    #[error("redirected to {0}")]
    Redirect(&'static str),
    #[error("the response is malformed")]
    Malformed,
}

impl Network {
    /// Uses the system's name servers, and the certificate authorities that browsers trust.
    ///
    /// # Errors
    /// When the system's configuration of name servers cannot be read.
    pub fn system() -> io::Result<Self> {
        Self::new(TokioResolver::builder_tokio().map_err(io::Error::other)?)
    }

    /// Uses these name servers, and the certificate authorities that browsers trust.
    ///
    /// # Errors
    /// When the resolver cannot be created.
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

    /// Trusts additional certificate authorities, from the content of a PEM file.
    ///
    /// # Errors
    /// When it is not PEM, has no certificate, or has one that is not an authority's.
    pub fn trust(&mut self, pem: &[u8]) -> io::Result<()> {
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(io::Error::other)?;
            self.roots.add(certificate).map_err(io::Error::other)?;
            found = true;
        }
        if found { Ok(()) } else { Err(io::Error::other("no certificate in PEM")) }
    }

    /// Allows connections to a range of addresses that is denied otherwise.
    pub fn allow(&mut self, range: IpNet) {
        self.allowed.push(range);
    }

    pub(super) fn connector(self) -> Connector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default TLS versions")
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
    /// Connects to `map(address)` in place of each address.
    pub fn new(map: impl Fn(SocketAddr) -> SocketAddr + Send + Sync + 'static) -> Self {
        Self(Arc::new(map))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// Looks up names and opens connections.
pub(super) struct Connector {
    resolver: TokioResolver,
    tls: TlsConnector,
    addresses: Addresses,
    pub(super) timeout: Duration,
    dial: Dial,
}

impl Connector {
    /// The targets of a name's SRV records, in the order in which to try them. Empty if there are none,
    /// or if the lookup fails: the certificate is checked for the same name either way.
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

    /// Connects to the first address that accepts, and checks the certificate.
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
                    let mapped = (self.dial.0)(SocketAddr::new(address, *port));
                    let stream = TcpStream::connect(mapped).await?;
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
        // The final dot disables the system's search list.
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
