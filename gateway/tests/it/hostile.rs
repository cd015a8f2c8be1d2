//! Requests of hostile clients, one row each: never a 5xx, never an answer to another request.
//!
//! A refusal without an errcode was sent by hyper, before the bytes were a request.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    Stage, US,
    client::{self, Answer, Ask},
    peer::Peer,
};

const BACKFILL: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

/// The name of a row, the bytes that are sent, and the expected status and errcode.
type Row = (String, Vec<u8>, u16, &'static str);

fn row(name: impl Into<String>, ask: &Ask, status: u16, errcode: &'static str) -> Row {
    (name.into(), ask.bytes(), status, errcode)
}

/// Sends all rows, each on a connection of its own, and reports those with another response. Status 0 is
/// a connection that was closed without a response.
async fn hold(stage: &Stage, rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for (name, bytes, status, errcode) in rows {
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        // The gateway may close the connection before it has read all bytes.
        drop(stream.write_all(&bytes).await);
        let answer = client::read_bytes(&mut stream).await.unwrap_or_default();
        let (got, body) = match Answer::parse(&answer) {
            Some(answer) => (answer.status, answer.body),
            None => (0, Vec::new()),
        };
        let got_errcode = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let got_errcode = got_errcode.and_then(|it| Some(it["errcode"].as_str()?.to_owned()));
        let got_errcode = got_errcode.unwrap_or_default();
        if got != status || got_errcode != errcode || got >= 500 {
            wrong.push(format!("{name}: {got} {got_errcode:?}, not {status} {errcode:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(stage.get(BACKFILL).await.status, 200, "it goes on");
}

/// A gateway with short timeouts for heads and bodies.
async fn impatient() -> Stage {
    Stage::start_with(|options| {
        options.limits.head_timeout = Duration::from_secs(2);
        options.limits.body_timeout = Duration::from_secs(1);
    })
    .await
}

/// A signed request with one part replaced.
fn raw(ask: &Ask, from: &str, to: &str) -> Vec<u8> {
    let bytes = ask.bytes();
    let at = bytes.windows(from.len()).position(|it| it == from.as_bytes()).expect(from);
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[tokio::test]
async fn signatures() {
    let stage = impatient().await;
    let (peer, other) = (&stage.peer, Peer::new("other.example", 2));
    let sig = peer.sig("GET", BACKFILL, None);
    let signed = |target: &str| Ask::new("GET", target).authorization(peer.header(&sig));
    let header = |text: String| Ask::new("GET", BACKFILL).authorization(text);
    let Peer { name, key_id, .. } = peer;
    let mut rows = Vec::new();
    for (what, target) in [
        ("another room", "/_matrix/federation/v1/backfill/!q:us.example?v=$a&limit=1"),
        ("another query", "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=2"),
        ("the same, encoded", "/_matrix/federation/v1/backfill/%21r:us.example?v=$a&limit=1"),
        ("one & more", "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1&"),
        ("a trailing slash", "/_matrix/federation/v1/backfill/!r:us.example/?v=$a&limit=1"),
    ] {
        rows.push(row(format!("replayed on {what}"), &signed(target), 401, "M_UNAUTHORIZED"));
    }
    let replayed = Ask::new("POST", MISSING).authorization(peer.header(&sig)).body("{}");
    rows.push(row("replayed on another endpoint", &replayed, 401, "M_UNAUTHORIZED"));
    let sig_of_body = peer.sig("POST", MISSING, Some(json!({"limit": 1})));
    let with =
        |body: &str| Ask::new("POST", MISSING).authorization(peer.header(&sig_of_body)).body(body);
    rows.push(row("another body", &with(r#"{"limit":2}"#), 401, "M_UNAUTHORIZED"));
    rows.push(row("no body", &with(""), 401, "M_UNAUTHORIZED"));
    let stolen = format!(
        r#"X-Matrix origin="{name}",destination="{US}",key="{}",sig="{sig}""#,
        other.key_id
    );
    rows.push(row("the key id of another server", &header(stolen), 401, "M_UNAUTHORIZED"));
    let posing = format!(
        r#"X-Matrix origin="{}",destination="{US}",key="{key_id}",sig="{sig}""#,
        other.name
    );
    rows.push(row("the name of another server", &header(posing), 401, "M_UNAUTHORIZED"));
    let elsewhere = peer.header(&sig).replace(US, "them.example");
    rows.push(row("meant for another server", &header(elsewhere), 401, "M_UNAUTHORIZED"));
    let others = other.header(&other.sig("GET", BACKFILL, None));
    let two = header(peer.header(&sig)).authorization(&others);
    rows.push(row("two origins in two headers", &two, 401, "M_UNAUTHORIZED"));
    let joined = header(format!("{}, {others}", peer.header(&sig)));
    rows.push(row("two origins in one header", &joined, 401, "M_UNAUTHORIZED"));
    let twice = header(format!("{},origin=\"{}\"", peer.header(&sig), other.name));
    rows.push(row("a parameter twice", &twice, 401, "M_UNAUTHORIZED"));
    let nine = (0..9).fold(Ask::new("GET", BACKFILL), |it, _| it.authorization(peer.header(&sig)));
    rows.push(row("nine headers", &nine, 401, "M_UNAUTHORIZED"));
    let long = format!("{},x=\"{}\"", peer.header(&sig), "a".repeat(9_000));
    rows.push(row("a huge header", &header(long), 401, "M_UNAUTHORIZED"));
    let none = header("X-Matrix".to_owned());
    rows.push(row("no parameters", &none, 401, "M_UNAUTHORIZED"));
    let zeros = peer.header(&"A".repeat(86));
    rows.push(row("a signature of zeros", &header(zeros), 401, "M_UNAUTHORIZED"));
    hold(&stage, rows).await;
    let asked = stage.history.asked();
    assert_eq!(asked.len(), 1, "only what was asked to see that it goes on: {asked:?}");
}

#[tokio::test]
async fn the_same_header_twice_is_one_too_many_keys_at_most() {
    let stage = impatient().await;
    let header = stage.peer.header(&stage.peer.sig("GET", BACKFILL, None));
    let twice = Ask::new("GET", BACKFILL).authorization(&header).authorization(&header);
    assert_eq!(stage.send(twice).await.status, 200);
}

#[tokio::test]
async fn server_names() {
    let stage = impatient().await;
    let sig = stage.peer.sig("GET", BACKFILL, None);
    let long = "a".repeat(256);
    let names = [
        "",
        " ",
        ".",
        "a.",
        ".a",
        "a..b",
        "a_b",
        "a b",
        "a/b",
        "a@b",
        "a%2eb",
        "b\u{fc}cher.example",
        "xn--",
        "a:0",
        "a:",
        "a:65536",
        "a:+1",
        "a:80:80",
        "::1",
        "[::1",
        "[]",
        "[fe80::1%25eth0]",
        "[1.2.3.4]",
        "a\tb",
        "*",
        "peer.example:8448\u{0}",
        "PEER.example:8448",
        "peer.example",
        "peer.example:08448",
        &long,
    ];
    let rows = names.into_iter().map(|name| {
        let Peer { key_id, .. } = &stage.peer;
        let header = format!(r#"X-Matrix origin="{name}",key="{key_id}",sig="{sig}""#);
        let ask = Ask::new("GET", BACKFILL).authorization(header);
        // hyper refuses NUL in a header.
        let is_header = !name.contains('\0');
        let (status, errcode) = if is_header { (401, "M_UNAUTHORIZED") } else { (400, "") };
        row(format!("origin {name:?}"), &ask, status, errcode)
    });
    hold(&stage, rows.collect()).await;
}

#[tokio::test]
async fn paths() {
    let stage = impatient().await;
    let mut rows = Vec::new();
    let of_room = |room: &str| format!("/_matrix/federation/v1/backfill/{room}?v=$a&limit=1");
    for (room, status, errcode) in [
        // One segment is decoded once: an encoded slash is part of the room id, not of the path.
        ("!r%2Fx:us.example", 200, ""),
        ("!r%252Fx:us.example", 200, ""),
        ("%21r:us.example", 200, ""),
        ("%2521r:us.example", 400, "M_INVALID_PARAM"),
        ("%2e%2e%2f!r:us.example", 400, "M_INVALID_PARAM"),
        ("!r%00:us.example", 400, "M_INVALID_PARAM"),
        ("%ff", 400, "M_INVALID_PARAM"),
        ("%", 400, "M_INVALID_PARAM"),
        ("r:us.example", 400, "M_INVALID_PARAM"),
        ("$r:us.example", 400, "M_INVALID_PARAM"),
    ] {
        let target = of_room(room);
        let ask = Ask::new("GET", &target).signed_by(&stage.peer);
        rows.push(row(format!("room {room:?}"), &ask, status, errcode));
    }
    for target in [
        "/_matrix/federation/v1/backfill/../backfill/!r:us.example?v=$a&limit=1",
        "/_matrix/federation/v1/backfill/x/!r:us.example?v=$a&limit=1",
        "/_matrix/federation/v1/./backfill/!r:us.example?v=$a&limit=1",
        "/_matrix/federation//v1/backfill/!r:us.example?v=$a&limit=1",
        "/_matrix%2Ffederation/v1/backfill/!r:us.example?v=$a&limit=1",
        "/_MATRIX/federation/v1/backfill/!r:us.example?v=$a&limit=1",
    ] {
        let ask = Ask::new("GET", target).signed_by(&stage.peer);
        rows.push(row(target, &ask, 404, "M_UNRECOGNIZED"));
    }
    let long = of_room(&format!("!{}:us.example", "a".repeat(300)));
    let ask = Ask::new("GET", &long).signed_by(&stage.peer);
    rows.push(row("a long room id", &ask, 400, "M_INVALID_PARAM"));
    let longer = Ask::new("GET", &of_room(&"a".repeat(300_000)));
    rows.push(row("a target of 300,000 bytes", &longer, 431, ""));
    hold(&stage, rows).await;
}

#[tokio::test]
async fn targets() {
    let stage = impatient().await;
    let sig = stage.peer.sig("GET", BACKFILL, None);
    let header = stage.peer.header(&sig);
    let ask = |method: &str, target: &str| Ask::new(method, target).authorization(&header);
    let absolute = format!("http://us.example{BACKFILL}");
    let rows = vec![
        // Path and query are signed (RFC 9112 §3.2.2: servers must accept this form).
        row("the absolute form", &ask("GET", &absolute), 200, ""),
        row(
            "the absolute form, another host",
            &ask("GET", "http://evil.example/x"),
            404,
            "M_UNRECOGNIZED",
        ),
        row("the asterisk form", &ask("OPTIONS", "*"), 404, "M_UNRECOGNIZED"),
        row("the asterisk form, GET", &ask("GET", "*"), 404, "M_UNRECOGNIZED"),
        row("the authority form", &ask("CONNECT", "us.example:8448"), 404, "M_UNRECOGNIZED"),
        row("CONNECT with a path", &ask("CONNECT", BACKFILL), 405, "M_UNRECOGNIZED"),
        // A fragment is dropped first: the request that is answered is the one that was signed.
        row("a fragment", &ask("GET", &format!("{BACKFILL}#x")), 200, ""),
        row("two hosts", &ask("GET", BACKFILL).header("Host", "evil.example"), 400, "M_UNKNOWN"),
        row("no slash", &ask("GET", "backfill"), 404, "M_UNRECOGNIZED"),
        row("TRACE", &ask("TRACE", BACKFILL), 405, "M_UNRECOGNIZED"),
        row("a NUL in the target", &ask("GET", &format!("{BACKFILL}\0")), 400, ""),
        row("a space in the target", &ask("GET", &format!("{BACKFILL} x")), 400, ""),
        row("a method of nonsense", &ask("G(T", BACKFILL), 400, ""),
    ];
    hold(&stage, rows).await;
}

/// A proxy and the gateway must see the same requests in the same bytes.
#[tokio::test]
async fn smuggling() {
    let stage = impatient().await;
    let ask = Ask::new("POST", MISSING).body("{}").signed_by(&stage.peer);
    let length = "Content-Length: 2\r\n";
    let replaced = |name: &str, to: &str, status: u16| -> Row {
        (name.to_owned(), raw(&ask, length, to), status, "")
    };
    let rows = vec![
        replaced("two lengths", "Content-Length: 2\r\nContent-Length: 3\r\n", 400),
        replaced("two lengths in one", "Content-Length: 2, 3\r\n", 400),
        replaced("a signed length", "Content-Length: +2\r\n", 400),
        replaced("a negative length", "Content-Length: -2\r\n", 400),
        replaced("a length in hex", "Content-Length: 0x2\r\n", 400),
        replaced("a length too great", "Content-Length: 99999999999999999999\r\n", 400),
        replaced("no length", "Content-Length: \r\n", 400),
        replaced("an unknown coding", "Transfer-Encoding: xchunked\r\n", 400),
        replaced("chunked is not last", "Transfer-Encoding: chunked, gzip\r\n", 400),
        replaced("a folded header", "Content-Length: 2\r\nX: a\r\n b\r\n", 400),
        replaced("a space before the colon", "Content-Length : 2\r\n", 400),
        replaced("a NUL in a header", "Content-Length: 2\r\nX: a\0b\r\n", 400),
        replaced("a header without a name", "Content-Length: 2\r\n: a\r\n", 400),
        replaced("a header without a colon", "Content-Length: 2\r\nabc\r\n", 400),
        replaced("a bare CR", "Content-Length: 2\r\nX: a\rY: b\r\n", 400),
        ("another version".to_owned(), raw(&ask, "HTTP/1.1", "HTTP/3.0"), 400, ""),
        ("no request".to_owned(), b"\0\0\0\0\r\n\r\n".to_vec(), 400, ""),
        ("a TLS hello".to_owned(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), 400, ""),
    ];
    hold(&stage, rows).await;
}

/// RFC 9112 §3.2 and §6: such a request is refused, and no further request is read.
#[tokio::test]
async fn heads_that_can_be_read_in_two_ways() {
    let stage = impatient().await;
    let hidden = Ask::new("GET", BACKFILL).signed_by(&stage.peer).bytes();
    let authorization = stage.peer.header(&stage.peer.sig("POST", MISSING, Some(json!({}))));
    let (chunked, length) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 2\r\n");
    let (chunks, whole) = ("2\r\n{}\r\n0\r\n\r\n", "{}");
    let mut wrong = Vec::new();
    for (version, headers, body, status) in [
        ("1.1", format!("Host: x\r\n{length}"), whole, 200),
        ("1.1", format!("Host: x\r\n{chunked}"), chunks, 200),
        ("1.1", "Host: [::1]:8448\r\nTRANSFER-ENCODING:\tCHUNKED \r\n".to_owned(), chunks, 200),
        ("1.0", length.to_owned(), whole, 200),
        ("1.1", length.to_owned(), whole, 400),
        ("1.1", format!("Host: x\r\nHost: x\r\n{length}"), whole, 400),
        ("1.0", format!("Host: x\r\nHost: y\r\n{length}"), whole, 400),
        ("1.1", format!("Host:\r\n{length}"), whole, 400),
        ("1.1", format!("Host: a b\r\n{length}"), whole, 400),
        ("1.1", format!("Host: a@b\r\n{length}"), whole, 400),
        ("1.1", format!("Host: a, b\r\n{length}"), whole, 400),
        ("1.1", format!("Host: a:b\r\n{length}"), whole, 400),
        ("1.1", format!("Host: http://a/\r\n{length}"), whole, 400),
        ("1.1", format!("Host : x\r\n{length}"), whole, 400),
        ("1.1", format!("Host: x\r\n{length}{chunked}"), chunks, 400),
        ("1.1", format!("Host: x\r\n{chunked}{length}"), chunks, 400),
        ("1.1", format!("Host: x\r\ncontent-length: 17\r\nA: b\r\n{chunked}"), chunks, 400),
        ("1.1", format!("Host: x\r\n{chunked}Content-Length: 0\r\n"), chunks, 400),
        ("1.0", format!("Host: x\r\n{chunked}"), chunks, 400),
        ("1.1", format!("Host: x\r\n{chunked}{chunked}"), chunks, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n".to_owned(), chunks, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: chunked, chunked\r\n".to_owned(), chunks, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: chunked, identity\r\n".to_owned(), chunks, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: identity\r\n".to_owned(), whole, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: gzip\r\n".to_owned(), whole, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding:\r\n".to_owned(), whole, 400),
        ("1.1", format!("Host: x\r\nTransfer-Encoding: gzip\r\n{chunked}"), chunks, 400),
        ("1.1", "Host: x\r\nTransfer-Encoding:\r\n chunked\r\n".to_owned(), chunks, 400),
        ("1.1", format!("Host: x\r\n{length}Content-Length: 3\r\n"), whole, 400),
        ("1.1", "Host: x\r\nContent-Length: 2, 2\r\n".to_owned(), whole, 400),
    ] {
        let head = format!("POST {MISSING} HTTP/{version}\r\nAuthorization: {authorization}\r\n");
        let end = if status == 200 { "Connection: close\r\n\r\n" } else { "\r\n" };
        let mut bytes = [head.as_bytes(), headers.as_bytes(), end.as_bytes()].concat();
        bytes.extend_from_slice(body.as_bytes());
        bytes.extend_from_slice(&hidden);
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let answers = client::read_bytes(&mut stream).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&answers);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("HTTP/1.")).collect();
        let is_right = lines.len() == 1 && lines[0].contains(&format!(" {status} "));
        if !is_right {
            wrong.push(format!("{version} {headers:?}: {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same with bodies of every kind, one after another on one connection.
#[tokio::test]
async fn a_length_beside_chunks_behind_other_requests() {
    let stage = Stage::start().await;
    let authorization = stage.peer.header(&stage.peer.sig("POST", MISSING, Some(json!({}))));
    let head = format!("POST {MISSING} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n");
    let both = "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let requests = [
        format!("{head}Content-Length: 2\r\n\r\n{{}}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nA: b\r\n\r\n"),
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("{head}{both}"),
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ];
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(requests.concat().as_bytes()).await.unwrap();
    let answers = client::read_bytes(&mut stream).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&answers);
    let statuses = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]);
    assert_eq!(statuses.collect::<Vec<_>>(), ["200", "200", "200", "400"]);
}

#[tokio::test]
async fn bodies() {
    let stage = impatient().await;
    let post = |body: &[u8]| Ask::new("POST", MISSING).body(body).signed_by(&stage.peer);
    let many: Vec<_> = (0..10_000).map(|nth| format!("\"$e{nth}\"")).collect();
    let many = format!(r#"{{"latest_events":[{}],"earliest_events":[]}}"#, many.join(","));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("{{\"x\":[{}0]}}", "0,".repeat(100_000));
    let rows = vec![
        row("10,000 ids", &post(many.as_bytes()), 200, ""),
        row("100,000 levels", &post(deep.as_bytes()), 400, "M_NOT_JSON"),
        row("100,000 numbers", &post(wide.as_bytes()), 200, ""),
        row("half a surrogate pair", &post(br#"{"x":"\ud800"}"#), 400, "M_NOT_JSON"),
        row("the other half", &post(br#"{"x":"\udc00\ud800"}"#), 400, "M_NOT_JSON"),
        row("not UTF-8", &post(b"{\"x\":\"\xff\"}"), 400, "M_NOT_JSON"),
        row("a byte order mark", &post(b"\xef\xbb\xbf{}"), 400, "M_NOT_JSON"),
        row("a NUL after it", &post(b"{}\0"), 400, "M_NOT_JSON"),
        row("a NUL in a text", &post(b"{\"x\":\"\0\"}"), 400, "M_NOT_JSON"),
        row("an escaped NUL", &post(br#"{"latest_events":["\u0000"]}"#), 200, ""),
        row("a float", &post(br#"{"limit":1.0}"#), 400, "M_BAD_JSON"),
        row("an exponent", &post(br#"{"limit":1e2}"#), 400, "M_BAD_JSON"),
        row("a number too great", &post(br#"{"x":1e999}"#), 400, "M_NOT_JSON"),
        row("NaN", &post(br#"{"x":NaN}"#), 400, "M_NOT_JSON"),
        row("a member twice", &post(br#"{"limit":1,"limit":2}"#), 400, "M_BAD_JSON"),
        row("a member twice, escaped", &post(br#"{"limit":1,"\u006cimit":2}"#), 400, "M_BAD_JSON"),
        row("an array", &post(b"[]"), 400, "M_BAD_JSON"),
        row("null", &post(b"null"), 400, "M_BAD_JSON"),
        row("ids that are none", &post(br#"{"latest_events":[1]}"#), 400, "M_BAD_JSON"),
        row("ids that are lists", &post(br#"{"latest_events":[["$a"]]}"#), 400, "M_BAD_JSON"),
        row("a negative limit", &post(br#"{"limit":-1}"#), 200, ""),
        row("the least depth", &post(br#"{"min_depth":-9007199254740991}"#), 200, ""),
        row("below it", &post(br#"{"min_depth":-9007199254740992}"#), 400, "M_BAD_JSON"),
        row("gzip", &post(b"{}").header("Content-Encoding", "gzip"), 415, "M_UNKNOWN"),
        row(
            "gzip, hidden behind another",
            &post(b"{}").header("Content-Encoding", "identity").header("Content-Encoding", "gzip"),
            415,
            "M_UNKNOWN",
        ),
        row("a body of 300 kB", &post(&vec![b' '; 300_000]), 413, "M_TOO_LARGE"),
        row("another type", &post(b"{}").header("Content-Type", "text/html"), 200, ""),
    ];
    hold(&stage, rows).await;
}
