//! What the homeserver gets of a request, and the client of its answer, byte for byte.

use axum::http::Uri;
use backscroll_tls::{TlsAcceptor, http_client};
use tokio::net::{TcpListener, TcpStream};

use super::{MISSING, TARGET};
use crate::support::{
    Beside,
    client::Ask,
    homeserver::{ANSWER, FakeHomeserver, response},
    tls::{Authority, Http2},
};

/// A gateway whose history service is away.
async fn start() -> Beside {
    Beside::start_with(|options, _| {
        options.history = Uri::from_static("http://127.0.0.1:1").into();
    })
    .await
}

#[tokio::test]
async fn the_target_and_the_authorization_as_they_came() {
    let Beside { stage, homeserver, .. } = start().await;
    for target in [
        TARGET,
        "/_matrix/federation/v1/backfill/%21r%3Aus.example/?v=%24a%2Fb%2B&limit=%31&&x=%zz",
        "/_matrix/federation/v1/backfill/!r:us.example?limit=10&v=$a+b/c=d&v=",
    ] {
        let sig = stage.peer.sig("GET", target, None);
        // The order of the parts and the spaces are unusual.
        let header = format!(
            "X-Matrix  key=\"{}\" , sig=\"{sig}\",origin=\"{}\"",
            stage.peer.key_id, stage.peer.name
        );
        let ask = Ask::new("GET", target).authorization(&header).header("User-Agent", "Synapse/1");
        assert_eq!(stage.send(ask).await.by(), "synapse;reason=history_away");
        let arrived = homeserver.next().await;
        assert_eq!(arrived.line, format!("GET {target} HTTP/1.1"));
        let mut headers = arrived.headers;
        headers.sort();
        let expected = [
            ("authorization", &*header),
            ("host", "gateway"),
            ("user-agent", "Synapse/1"),
            ("x-forwarded-for", "127.0.0.1"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(arrived.body, b"");
    }
}

#[tokio::test]
async fn bodies_as_they_came() {
    let Beside { stage, homeserver, .. } = start().await;
    let body = " {\"latest_events\" : [\"$\\u0061\"],\r\n\t\"limit\":10, \"x\":\"\u{fc}\"}\n";
    let signed = |body: &str| {
        let content = serde_json::from_str(body).ok();
        stage.peer.header(&stage.peer.sig("POST", MISSING, content))
    };
    let ask = Ask::new("POST", MISSING).body(body).header("Content-Type", "application/json");
    assert_eq!(stage.send(ask.authorization(signed(body))).await.body, ANSWER.as_bytes());
    let arrived = homeserver.next().await;
    assert_eq!(arrived.body, body.as_bytes());
    assert_eq!(arrived.header("content-length"), [body.len().to_string()]);
    assert_eq!(arrived.header("content-type"), ["application/json"]);

    // Its chunks need not be the same.
    let header = signed(body);
    let chunked = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: \
         {header}\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1\r\n \r\n{:x}\r\n{}\r\n0\r\n\
         x: 1\r\n\r\n",
        body.len() - 1,
        &body[1..]
    );
    let answer = crate::support::client::send(stage.address, chunked.as_bytes()).await;
    assert_eq!(answer.body, ANSWER.as_bytes());
    let arrived = homeserver.next().await;
    assert_eq!(arrived.body, body.as_bytes());
    assert!(arrived.header("transfer-encoding").is_empty() && arrived.header("trailer").is_empty());

    // An empty one.
    let ask = Ask::new("POST", MISSING).body("").authorization(signed(""));
    assert_eq!(stage.send(ask).await.body, ANSWER.as_bytes());
    assert_eq!(homeserver.next().await.body, b"");
}

/// The homeserver must not believe a client what only a proxy may say.
#[tokio::test]
async fn headers_that_a_client_may_not_set() {
    let Beside { stage, homeserver, .. } = start().await;
    let ask = Ask::new("GET", TARGET)
        .signed_by(&stage.peer)
        .header("Connection", "x-forwarded-for, authorization, X-Secret")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Backscroll", "history")
        .header("X-Secret", "1")
        .header("Keep-Alive", "timeout=1")
        .header("Upgrade", "h2c")
        .header("Proxy-Authorization", "Basic x");
    assert_eq!(stage.send(ask).await.by(), "synapse;reason=history_away");
    let arrived = homeserver.next().await;
    let mut names: Vec<_> = arrived.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "x-forwarded-for"]);
    assert_eq!(arrived.header("x-forwarded-for"), ["127.0.0.1"]);
    // A length beside a transfer coding would let a second request be hidden in the body.
    let smuggled = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\nTransfer-Encoding: \
         chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    );
    let answer = crate::support::client::send(stage.address, smuggled.as_bytes()).await;
    assert_eq!(answer.status, 400);
    assert_eq!(homeserver.arrived(), []);
}

#[tokio::test]
async fn addresses_that_a_trusted_proxy_names() {
    let Beside { stage, homeserver, .. } = Beside::start_with(|options, _| {
        options.history = Uri::from_static("http://127.0.0.1:1").into();
        options.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    for (claimed, expected) in [
        ("198.51.100.1", "198.51.100.1, 127.0.0.1"),
        ("6.6.6.6, 198.51.100.1, 127.0.0.9", "198.51.100.1, 127.0.0.9, 127.0.0.1"),
        ("[2001:db8::1]:99", "2001:db8::1, 127.0.0.1"),
        ("6.6.6.6, unknown", "127.0.0.1"),
    ] {
        let ask = Ask::new("GET", TARGET).signed_by(&stage.peer).header("X-Forwarded-For", claimed);
        stage.send(ask).await;
        assert_eq!(homeserver.next().await.header("x-forwarded-for"), [expected], "{claimed}");
    }
}

#[tokio::test]
async fn http2_requests_have_their_host() {
    let Beside { stage, homeserver, .. } = start().await;
    let mut http = Http2::over(TcpStream::connect(stage.address).await.unwrap()).await;
    let header = stage.peer.header(&stage.peer.sig("GET", TARGET, None));
    let (status, body) = http.ask("GET", TARGET, &[&header], "").await.unwrap();
    assert_eq!((status, &*body), (200, ANSWER.as_bytes()));
    let arrived = homeserver.next().await;
    assert_eq!(arrived.line, format!("GET {TARGET} HTTP/1.1"));
    assert_eq!(arrived.header("host"), ["gateway.example"]);
    assert_eq!(arrived.header("authorization"), [header]);
}

#[tokio::test]
async fn its_answer_is_passed_on_as_it_is() {
    let Beside { stage, homeserver, .. } = start().await;
    let headers = "Content-Type: text/odd\r\nRetry-After: 7\r\nServer: Synapse/1\r\nX-Backscroll: \
                   history\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n";
    for status in [200, 403, 404, 429, 500, 503] {
        homeserver.reply(response(status, headers, "\u{fc} not JSON"));
        let answer = stage.get(TARGET).await;
        let by = if status == 403 { "" } else { "synapse;reason=history_away" };
        assert_eq!((answer.status, answer.by()), (status, by));
        assert_eq!(answer.body, "\u{fc} not JSON".as_bytes());
        assert_eq!(answer.header("content-type"), Some("text/odd"));
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(answer.header("server"), Some("Synapse/1"));
        assert_eq!(answer.header("content-length"), Some("11"));
        assert_eq!((answer.header("x-hop"), answer.header("keep-alive")), (None, None));
    }
    // One without a length.
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    homeserver.reply(crate::support::homeserver::Reply::Bytes(chunked.to_vec()));
    let answer = stage.get(TARGET).await;
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.body, b"2\r\n{}\r\n0\r\n\r\n");
}

/// The certificate of the homeserver is checked: its authority, and its name.
#[tokio::test]
async fn a_homeserver_with_tls() {
    let (trusted, other) = (Authority::new(), Authority::new());
    trusted.write_pair_for("localhost");
    other.write_pair_for("localhost");
    let named_otherwise = Authority::new();
    named_otherwise.write_pair_for("elsewhere.example");
    for (server, ca, status) in [
        (&trusted, Some(&trusted), 200),
        (&trusted, Some(&other), 503),
        (&named_otherwise, Some(&named_otherwise), 503),
        (&trusted, None, 503),
    ] {
        let homeserver = FakeHomeserver::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(server.listener().get());
        let plain = homeserver.address;
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut plain = TcpStream::connect(plain).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut stream, &mut plain).await);
            }
        });
        let Beside { stage, .. } = Beside::start_with(|options, fallback| {
            options.history = Uri::from_static("http://127.0.0.1:1").into();
            fallback.url = format!("https://localhost:{port}").parse().unwrap();
            fallback.tls = Some(http_client(ca.map(|it| it.path("ca.pem"))).unwrap());
        })
        .await;
        let answer = stage.get(TARGET).await;
        assert_eq!(answer.status, status);
        assert_eq!(homeserver.arrived().len(), usize::from(status == 200));
    }
}
