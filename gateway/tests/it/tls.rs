//! The gateway's own TLS: which clients can connect, and certificates that change.

use std::{fs, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Stage,
    client::{self, Answer, Ask},
    tls::{Authority, Http2, shown},
};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2Bb&limit=1";

async fn start(authority: &Authority) -> Stage {
    Stage::start_with(|options| options.tls = Some(authority.listener())).await
}

#[tokio::test]
async fn every_protocol_that_we_speak() {
    let authority = Authority::new();
    authority.write_pair();
    let stage = start(&authority).await;
    for (alpn, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut stream = authority.connect(stage.address, alpn).await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(agreed.as_deref(), expected);
        if expected == Some(b"h2") {
            let header = stage.peer.header(&stage.peer.sig("GET", TARGET, None));
            let mut http = Http2::over(stream).await;
            assert_eq!(http.ask("GET", TARGET, &[&header], "").await.unwrap().0, 200);
            continue;
        }
        let ask = Ask::new("GET", TARGET).signed_by(&stage.peer);
        stream.write_all(&ask.bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(Answer::parse(&bytes).unwrap().status, 200);
    }
    assert!(authority.connect(stage.address, &[b"spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_client_without_tls_or_trust_gets_no_response() {
    let authority = Authority::new();
    authority.write_pair();
    let stage = start(&authority).await;
    // The client trusts another authority.
    assert!(Authority::new().connect(stage.address, &[]).await.is_err());
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(&Ask::new("GET", "/healthz").bytes()).await.unwrap();
    assert!(client::read(&mut stream).await.is_none());
    assert_eq!(stage.history.asked(), []);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_closes_the_connection() {
    let authority = Authority::new();
    authority.write_pair();
    let stage = Stage::start_with(|options| {
        options.tls = Some(authority.listener());
        options.limits.head_timeout = Duration::from_millis(50);
    })
    .await;
    for start in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        stream.write_all(start).await.unwrap();
        assert!(client::read(&mut stream).await.is_none());
    }
}

#[tokio::test]
async fn a_handshake_under_way_does_not_delay_the_end() {
    let authority = Authority::new();
    authority.write_pair();
    let stage = start(&authority).await;
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    // It was accepted, because the next one was.
    authority.connect(stage.address, &[]).await.unwrap();
    stage.stop.cancel();
    stage.serving.await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let authority = Authority::new();
    let first = authority.write_pair();
    let tls = authority.listener();
    let stage = Stage::start_with(|options| options.tls = Some(tls.clone())).await;
    let stream = authority.connect(stage.address, &[b"h2"]).await.unwrap();
    assert_eq!(shown(&stream), first);
    let mut http = Http2::over(stream).await;
    assert_eq!(http.ask("GET", "/healthz", &[], "").await.unwrap().0, 200);

    let second = authority.write_pair();
    assert!(tls.look());
    assert_eq!(shown(&authority.connect(stage.address, &[b"h2"]).await.unwrap()), second);
    // Earlier connections go on.
    assert_eq!(http.ask("GET", "/healthz", &[], "").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_broken_new_certificate_keeps_the_old_one() {
    let authority = Authority::new();
    let good = authority.write_pair();
    let tls = authority.listener();
    let stage = Stage::start_with(|options| options.tls = Some(tls.clone())).await;
    let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let old_key = fs::read(&key).unwrap();

    let still_good = async || {
        assert!(!tls.look());
        shown(&authority.connect(stage.address, &[]).await.unwrap()) == good
    };
    // Only one of the two files was replaced so far.
    let next = authority.write_pair();
    let next_key = fs::read(&key).unwrap();
    fs::write(&key, &old_key).unwrap();
    assert!(still_good().await);
    for broken in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        let content = fs::read(&cert).unwrap();
        fs::write(&cert, broken).unwrap();
        assert!(still_good().await, "{broken}");
        fs::write(&cert, content).unwrap();
    }
    fs::remove_file(&key).unwrap();
    assert!(still_good().await);

    fs::write(&key, next_key).unwrap();
    assert!(tls.look());
    assert_eq!(shown(&authority.connect(stage.address, &[]).await.unwrap()), next);
}
