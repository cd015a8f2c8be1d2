//! TLS on the gateway's own listener: both protocols, and certificates that change.

use std::{fs, path::Path, sync::Arc};

use axum::{body::Bytes, http::Request};
use backscroll_gateway::{config::Config, server::Options};
use clap::Parser as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Stage, US, peer::Peer};

const TARGET: &str = "/_matrix/federation/v1/backfill/%21r:us.example?v=%24e&v=a+b%2f&limit=1";

/// Writes a new certificate and its key.
fn renew(dir: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![US.to_owned()]).unwrap().self_signed(&key);
    let certificate = certificate.unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    certificate.der().clone()
}

/// As the command line makes them.
fn options(dir: &Path) -> anyhow::Result<Options> {
    let path = |name| dir.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let flags = ["gateway", "--server-name", US, "--history", "http://127.0.0.1:1"];
    let flags = flags.into_iter().chain(["--fetch-keys", "false"]);
    let flags = flags.chain(["--tls-cert", &cert, "--tls-key", &key]);
    Config::try_parse_from(flags).unwrap().into_options()
}

async fn connect(
    stage: &Stage,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
    let stream = TcpStream::connect(stage.address).await.unwrap();
    let name = ServerName::try_from(US).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn request(uri: &str, peer: &Peer, signed: &str) -> Request<Empty<Bytes>> {
    let header = peer.header(&peer.sig("GET", signed, None));
    let request = Request::get(uri).header("host", US).header("authorization", header);
    request.body(Empty::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_requests_over_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = renew(dir.path());
    let tls = options(dir.path()).unwrap().tls;
    let stage = Stage::start_with(|options| options.tls = tls).await;
    let decoded = TARGET.replace("%24", "$");

    let stream = connect(&stage, &certificate, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    // The target counts as it was sent, byte for byte.
    for (signed, status) in [(TARGET, 200), (&decoded, 401), (TARGET, 200)] {
        let uri = format!("https://{US}{TARGET}");
        let answer = sender.send_request(request(&uri, &stage.peer, signed)).await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
    }
    assert_eq!(stage.history.asked().len(), 2);

    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = connect(&stage, &certificate, alpn).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request(TARGET, &stage.peer, TARGET)).await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    // An idle connection of HTTP/2 is told to end, and does not hold the gateway up.
    stage.stop.cancel();
    stage.serving.await.unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = renew(dir.path());
    let tls = options(dir.path()).unwrap().tls.unwrap();
    let watched = Arc::clone(&tls);
    let stage = Stage::start_with(|options| options.tls = Some(tls)).await;
    assert!(connect(&stage, &first, &[]).await.is_ok());

    // A key that is not the certificate's: what was read before goes on.
    let other = KeyPair::generate().unwrap().serialize_pem();
    fs::write(dir.path().join("key.pem"), other).unwrap();
    assert!(!watched.look());
    assert!(connect(&stage, &first, &[]).await.is_ok());

    let second = renew(dir.path());
    assert!(watched.look());
    assert!(connect(&stage, &second, &[]).await.is_ok());
    assert!(connect(&stage, &first, &[]).await.is_err());
}

/// Whoever does not speak TLS gets no answer, and takes nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_tls() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = renew(dir.path());
    let tls = options(dir.path()).unwrap().tls;
    let stage = Stage::start_with(|options| options.tls = tls).await;
    let mut plain = TcpStream::connect(stage.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /healthz HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // An alert, or nothing; the connection may be reset.
    drop(tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer).await);
    assert!(!answer.starts_with(b"HTTP"));
    assert!(connect(&stage, &certificate, &[]).await.is_ok());
    assert!(options(Path::new("/nowhere")).is_err());
}
