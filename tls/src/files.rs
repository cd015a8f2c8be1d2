//! Creates rustls configurations from PEM files.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::Watched;

/// The protocols of gRPC, for ALPN.
const GRPC: [&[u8]; 1] = [b"h2"];
/// The protocol of an HTTP client, for ALPN.
const HTTP_1: &[u8] = b"http/1.1";
/// The protocols of an HTTP server, for ALPN: HTTP/2 is preferred.
const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The PEM files of a TLS server.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authority of client certificates. `None`: clients are not asked for certificates.
    pub client_ca: Option<PathBuf>,
}

/// The PEM files of a TLS client.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// The authority of the server's certificate. No other authority is trusted, not even the system's.
    pub ca: PathBuf,
    /// The client's own certificate and private key, if the server requires one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ServerFiles {
    /// Reads the files for a gRPC server. Clients may connect without a certificate even if there is a
    /// client authority: authentication is checked for each request.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid.
    pub fn watched(self) -> anyhow::Result<Arc<Watched<ServerConfig>>> {
        self.watched_for(&GRPC)
    }

    /// Reads the files for a server of HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid.
    pub fn watched_for_http(self) -> anyhow::Result<Arc<Watched<ServerConfig>>> {
        self.watched_for(&HTTP)
    }

    fn watched_for(
        self,
        alpn: &'static [&'static [u8]],
    ) -> anyhow::Result<Arc<Watched<ServerConfig>>> {
        let paths = [Some(self.cert), Some(self.key), self.client_ca];
        Watched::open(paths.into_iter().flatten().collect(), |files| {
            let [cert, key, client_ca @ ..] = files else { anyhow::bail!("too few files") };
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?;
            let builder = match client_ca.first() {
                Some(ca) => {
                    let roots = Arc::new(roots(ca).context("the authority of clients")?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                        .allow_unauthenticated()
                        .build()?;
                    builder.with_client_cert_verifier(verifier)
                }
                None => builder.with_no_client_auth(),
            };
            let (certs, key) = identity(cert, key)?;
            let mut config = builder.with_single_cert(certs, key).context("certificate and key")?;
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Ok(config)
        })
    }
}

impl ClientFiles {
    /// Reads the files for a gRPC client.
    ///
    /// # Errors
    /// When a file cannot be read or is not valid.
    pub fn watched(self) -> anyhow::Result<Arc<Watched<ClientConfig>>> {
        let (cert, key) = self.identity.unzip();
        let paths = [Some(self.ca), cert, key];
        Watched::open(paths.into_iter().flatten().collect(), |files| {
            let [ca, own @ ..] = files else { anyhow::bail!("too few files") };
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots(ca).context("the server's authority")?);
            let mut config = match own {
                [cert, key] => {
                    let (certs, key) = identity(cert, key)?;
                    builder.with_client_auth_cert(certs, key).context("certificate and key")?
                }
                _ => builder.with_no_client_auth(),
            };
            config.alpn_protocols = GRPC.map(<[u8]>::to_vec).to_vec();
            Ok(config)
        })
    }
}

/// The configuration of an HTTP/1.1 client. `ca` is the only authority that it trusts; `None`: it trusts
/// the authorities that browsers trust.
///
/// # Errors
/// When the file cannot be read or is not valid.
pub fn http_client(ca: Option<PathBuf>) -> anyhow::Result<Arc<Watched<ClientConfig>>> {
    Watched::open(ca.into_iter().collect(), |files| {
        let roots = match files.first() {
            Some(ca) => roots(ca).context("the server's authority")?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() },
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        Ok(config)
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn identity(
    cert: &[u8],
    key: &[u8],
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_slice(key).context("no private key in the PEM file")?;
    Ok((certificates(cert)?, key))
}

fn roots(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("not a PEM file")?;
    ensure!(!certificates.is_empty(), "no certificate in the PEM file");
    Ok(certificates)
}
