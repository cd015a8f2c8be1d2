//! A certificate authority, certificates of the gateway, and an HTTP/2 client.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{body::Body, http};
use backscroll_tls::{ServerConfig, ServerFiles, Watched};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

/// The name that the gateway's certificates are for.
pub(crate) const GATEWAY: &str = "gateway.example";

/// A certificate authority, and the folder with the gateway's files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the gateway's certificate and key. Returns the new certificate.
    pub(crate) fn write_pair(&self) -> CertificateDer<'static> {
        self.write_pair_for(GATEWAY)
    }

    /// The same for another name.
    pub(crate) fn write_pair_for(&self, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        fs::write(self.path("ca.pem"), self.issuer.pem()).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path("cert.pem"), cert.pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        cert.der().clone()
    }

    pub(crate) fn listener(&self) -> Arc<Watched<ServerConfig>> {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        ServerFiles { cert, key, client_ca: None }.watched_for_http().unwrap()
    }

    /// Connects as a client that trusts this authority and supports these protocols.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(GATEWAY).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// A TLS ClientHello, which can be sent any number of times.
pub(crate) fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(GATEWAY).unwrap();
    let mut hello = Vec::new();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// The certificate of the other end.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// The client's end of an HTTP/2 connection.
pub(crate) struct Http2(http2::SendRequest<Body>);

impl Http2 {
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a request. Returns the status and the body of the response.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        target: &str,
        authorization: &[&str],
        body: &str,
    ) -> hyper::Result<(u16, Vec<u8>)> {
        self.0.ready().await?;
        let mut request =
            http::Request::builder().method(method).uri(format!("https://{GATEWAY}{target}"));
        for header in authorization {
            request = request.header("authorization", *header);
        }
        let answer =
            self.0.send_request(request.body(Body::from(body.to_owned())).unwrap()).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes().to_vec()))
    }

    /// Waits until the other end has closed the connection.
    pub(crate) async fn closed(&mut self) {
        while self.0.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
