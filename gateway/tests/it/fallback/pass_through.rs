//! Other federation endpoints, which are passed through to the homeserver.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::TARGET;
use crate::support::{
    Beside,
    client::{self, Ask},
    frames::connect_from,
    homeserver::{ANSWER, response},
    tls::Http2,
    until, within,
};

const SEND: &str = "/_matrix/federation/v1/send/1%2F2";

async fn start(concurrency: usize) -> Beside {
    Beside::start_with(|options, fallback| {
        fallback.pass_through = true;
        options.limits.pass_through_concurrency = concurrency;
    })
    .await
}

#[tokio::test]
async fn what_is_passed_through_and_what_is_not() {
    let Beside { stage, homeserver, .. } = start(16).await;
    for (method, target) in [
        ("GET", "/_matrix/federation/v1/version"),
        ("PUT", SEND),
        ("POST", "/_matrix/federation/v2/invite/!r:x/$e?a=%zz"),
        ("DELETE", "/_matrix/federation/unstable/x/"),
        ("OPTIONS", "/_matrix/key/v2/server"),
        ("GET", "/_matrix/key/v2/query/a.example/"),
        ("GET", "/_matrix/federation/v1/backfill/a/b"),
    ] {
        let answer = stage.send(Ask::new(method, target).authorization("X-Matrix odd")).await;
        assert_eq!((answer.status, answer.by()), (200, "synapse;reason=pass_through"), "{target}");
        assert_eq!(answer.body, ANSWER.as_bytes());
        let arrived = homeserver.next().await;
        assert_eq!(arrived.line, format!("{method} {target} HTTP/1.1"));
        assert_eq!(arrived.header("authorization"), ["X-Matrix odd"]);
        assert_eq!(arrived.header("x-forwarded-for"), ["127.0.0.1"]);
    }
    for target in [
        "/_matrix/client/v3/sync",
        "/_matrix/federation",
        "/_synapse/admin/v1/server_version",
        "/",
        "/_matrix/federation/../client/v3/sync",
        "/_matrix/federation/v1/%2e%2E/%2E%2e/client",
        "/_matrix/federation/v1/x%2f..%2f..%2f..%2fclient",
        "/_matrix/key/./v2",
        "//_matrix/federation/v1/version",
    ] {
        assert_eq!(stage.send(Ask::new("GET", target)).await.refusal().0, 404, "{target}");
    }
    // Those of the gateway itself.
    let answer = stage.send(Ask::new("GET", TARGET)).await;
    assert_eq!((answer.refusal().0, answer.by()), (401, "history"));
    assert_eq!(stage.send(Ask::new("PUT", TARGET)).await.refusal().0, 405);
    assert_eq!(homeserver.arrived(), []);
}

#[tokio::test]
async fn nothing_is_passed_through_unless_it_is_configured() {
    let Beside { stage, homeserver, .. } = Beside::start().await;
    for target in ["/_matrix/federation/v1/version", SEND, "/_matrix/key/v2/server"] {
        assert_eq!(stage.send(Ask::new("GET", target)).await.refusal().0, 404, "{target}");
    }
    assert_eq!(homeserver.arrived(), []);
}

/// Sends the head of a request, and the beginning of its body.
async fn begin(mut stream: TcpStream, length: usize, body: &[u8]) -> TcpStream {
    let head = format!("PUT {SEND} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// A body is not collected first: the homeserver gets what has come of it.
#[tokio::test]
async fn bodies_are_passed_on_while_they_are_received() {
    let Beside { stage, homeserver, .. } = start(16).await;
    let half = vec![b'a'; 3 << 20];
    let mut stream = begin(connect(stage.address).await, 2 * half.len(), &half).await;
    until("the first half", async || homeserver.bytes().0 > half.len()).await;
    assert_eq!(homeserver.arrived(), []);
    stream.write_all(&half).await.unwrap();
    let arrived = homeserver.next().await;
    assert_eq!(arrived.body.len(), 2 * half.len());
    assert!(arrived.body.iter().all(|byte| *byte == b'a'));
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn chunks_and_http2() {
    let Beside { stage, homeserver, .. } = start(16).await;
    let chunked = format!(
        "PUT {SEND} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nTransfer-Encoding: \
         chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    assert_eq!(client::send(stage.address, chunked.as_bytes()).await.status, 200);
    assert_eq!(homeserver.next().await.body, b"abcde");

    let mut http = Http2::over(connect(stage.address).await).await;
    let body = "x".repeat(1 << 20);
    let (status, answer) = http.ask("PUT", SEND, &["X-Matrix a"], &body).await.unwrap();
    assert_eq!((status, &*answer), (200, ANSWER.as_bytes()));
    let arrived = homeserver.next().await;
    let line = format!("PUT {SEND} HTTP/1.1");
    assert_eq!((&*arrived.body, &*arrived.line), (body.as_bytes(), &*line));
    assert_eq!(arrived.header("host"), ["gateway.example"]);
    let (status, _) = http.ask("GET", "/_matrix/key/v2/server", &[], "").await.unwrap();
    assert_eq!((status, homeserver.next().await.body), (200, Vec::new()));
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let Beside { stage, homeserver, .. } = start(16).await;
    let mut stream = begin(connect(stage.address).await, (16 << 20) + 1, b"").await;
    let mut answer = vec![0; 12];
    within("a refusal", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert_eq!(homeserver.bytes().0, 0);

    let mut stream = connect(stage.address).await;
    let head = format!("PUT {SEND} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"100000\r\n", &vec![b'a'; 1 << 20][..], b"\r\n"].concat();
    let mut refused = vec![0; 12];
    let (mut reading, mut writing) = stream.split();
    let writing = async {
        // The gateway stops reading at some time.
        while writing.write_all(&chunk).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = within("a refusal", reading.read_exact(&mut refused)) => drop(read.unwrap()),
        () = writing => {}
    }
    assert_eq!(refused, b"HTTP/1.1 413");
    // The homeserver has not got the end of it.
    assert_eq!(homeserver.arrived(), []);
    until("the request is dropped", async || homeserver.connections() == 0).await;
}

/// Requests whose bodies do not come make way for others; those that the homeserver works on do not.
#[tokio::test]
async fn slow_clients_make_way() {
    let Beside { stage, homeserver, .. } = start(8).await;
    let mut slow = Vec::new();
    for nth in 0..8 {
        let stream = connect_from(nth / 2 + 1, stage.address).await.unwrap();
        slow.push(begin(stream, 100, b"a").await);
        until("it is passed on", async || homeserver.connections() == usize::from(nth) + 1).await;
    }
    assert_eq!(stage.send(Ask::new("PUT", SEND).body("b")).await.status, 200);
    // The oldest of an address with the most was ended.
    let mut rest = Vec::new();
    within("the end of the first", slow[0].read_to_end(&mut rest)).await.unwrap_or_default();
    assert_eq!(rest, b"");

    drop(slow);
    until("no request is left", async || homeserver.connections() <= 1).await;
    let held = homeserver.hold();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(begin(connect(stage.address).await, 1, b"a").await);
        homeserver.holds(waiting.len()).await;
    }
    // Two are the quarter of one address.
    let answer = stage.send(Ask::new("GET", "/_matrix/key/v2/server")).await;
    assert_eq!(answer.refusal(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    held.add_permits(9);
    for mut stream in waiting {
        let mut answer = vec![0; 12];
        within("an answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
    }
    assert_eq!(stage.send(Ask::new("GET", "/_matrix/key/v2/server")).await.status, 200);
}

/// Requests that the homeserver does not authenticate count as failures, others do not.
#[tokio::test]
async fn failures_are_counted() {
    let Beside { stage, homeserver, .. } = Beside::start_with(|options, fallback| {
        fallback.pass_through = true;
        options.limits.failure_rate = 1;
        options.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let ask = || Ask::new("PUT", SEND).header("X-Forwarded-For", "198.51.100.1").body("{}");
    for status in [200, 403, 404, 500] {
        homeserver.reply(response(status, "", "{}"));
        for _ in 0..5 {
            assert_eq!(stage.send(ask()).await.status, status);
        }
    }
    homeserver.reply(response(401, "", "{}"));
    until("too many", async || stage.send(ask()).await.status == 429).await;
    let other = Ask::new("PUT", SEND).header("X-Forwarded-For", "198.51.100.2").body("{}");
    assert_eq!(stage.send(other).await.status, 401);
}
