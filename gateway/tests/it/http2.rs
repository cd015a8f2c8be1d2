//! HTTP/2: the same responses and signatures as with HTTP/1.1, and limits of its own.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Stage,
    client::Ask,
    frames::{GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, frames},
    peer::Peer,
    tls::Http2,
    until, within,
};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2Bb&limit=1";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

/// Connects without TLS.
async fn connect(stage: &Stage) -> Http2 {
    Http2::over(TcpStream::connect(stage.address).await.unwrap()).await
}

#[tokio::test]
async fn the_path_is_signed_as_it_was_sent() {
    let stage = Stage::start().await;
    let mut http = connect(&stage).await;
    for (method, signed, sent, expected) in [
        ("GET", TARGET, TARGET, 200),
        ("POST", TARGET, TARGET, 401),
        ("GET", TARGET, "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2bb&limit=1", 401),
        ("GET", TARGET, "/_matrix/federation/v1/backfill/!r:us.example?v=$a+b&limit=1", 401),
        ("GET", TARGET, "/_matrix/federation/v1/backfill/%21r:us.example?v=$a%2Bb&limit=1", 401),
    ] {
        let header = stage.peer.header(&stage.peer.sig(method, signed, None));
        let (status, _) = http.ask("GET", sent, &[&header], "").await.unwrap();
        assert_eq!(status, expected, "{method} {sent}");
    }
    assert_eq!(stage.history.asked().len(), 1);
}

#[tokio::test]
async fn bodies_and_refusals() {
    let stage = Stage::start().await;
    let mut http = connect(&stage).await;
    let body = serde_json::json!({ "earliest_events": [], "latest_events": ["$a"], "limit": 3 });
    let header = stage.peer.header(&stage.peer.sig("POST", MISSING, Some(body.clone())));
    let answer = http.ask("POST", MISSING, &[&header], &body.to_string()).await.unwrap();
    assert_eq!(answer, (200, br#"{"events":[]}"#.to_vec()));
    for (method, target, body, expected) in [
        ("POST", MISSING, "{", 400),
        ("POST", MISSING, "{}", 401),
        ("GET", "/", "", 404),
        ("PUT", MISSING, "", 405),
    ] {
        let (status, body) = http.ask(method, target, &[&header], body).await.unwrap();
        assert_eq!(status, expected, "{method} {target}");
        assert!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["errcode"].is_string());
    }
    let large = "a".repeat(256 * 1024 + 1);
    let (status, _) = http.ask("POST", MISSING, &[&header], &large).await.unwrap();
    assert_eq!(status, 413);
    let long = "a".repeat(70_000);
    assert_eq!(http.ask("GET", TARGET, &[&long], "").await.unwrap().0, 431);
}

#[tokio::test]
async fn several_authorization_headers_follow_the_same_rules() {
    let stage = Stage::start().await;
    let mut http = connect(&stage).await;
    let good = &*stage.peer.header(&stage.peer.sig("GET", TARGET, None));
    let unknown_key = &*good.replace(&stage.peer.key_id, "ed25519:new");
    let wrong_sig = &*stage.peer.header(&stage.peer.sig("GET", "/", None));
    let other = Peer::new("other.example", 2);
    let other = &*other.header(&other.sig("GET", TARGET, None));
    for (headers, expected) in [
        (&[][..], 401),
        (&["Bearer x", good], 200),
        (&[good, good], 200),
        (&[unknown_key, good], 200),
        (&[unknown_key], 401),
        (&[good, wrong_sig], 401),
        (&[good, other], 401),
        (&[good, "X-Matrix origin"], 401),
        (&[good; 8], 200),
        (&[good; 9], 401),
    ] {
        let (status, _) = http.ask("GET", TARGET, headers, "").await.unwrap();
        assert_eq!(status, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_end() {
    let stage = Stage::start().await;
    let hold = stage.history.hold();
    let mut http = connect(&stage).await;
    let header = stage.peer.header(&stage.peer.sig("GET", TARGET, None));
    let asking = tokio::spawn(async move { http.ask("GET", TARGET, &[&header], "").await });
    hold.arrived().await;
    stage.stop.cancel();
    until("closed", async || TcpStream::connect(stage.address).await.is_err()).await;
    assert!(!stage.serving.is_finished());
    hold.release_one();
    assert_eq!(asking.await.unwrap().unwrap().0, 200);
    within("the end", stage.serving).await.unwrap();
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed() {
    let stage = Stage::start_with(|options| {
        options.limits.head_timeout = Duration::from_millis(500);
    })
    .await;
    let mut never = connect(&stage).await;
    within("closed", never.closed()).await;
    let mut once = connect(&stage).await;
    assert_eq!(once.ask("GET", "/healthz", &[], "").await.unwrap().0, 200);
    within("closed", once.closed()).await;
    // A connection with half a preface is closed too.
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(b"PRI * HT").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
}

/// CVE-2023-44487: streams that are opened and reset at once cost the client nothing.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let stage = Stage::start().await;
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for nth in 0..2_000 {
        let stream = 2 * nth + 1;
        // GET / over http, from the static table; the end of the headers and of the stream.
        bytes.extend(frame(HEADERS, 0x5, stream, &[0x82, 0x86, 0x84]));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut reading, mut writing) = TcpStream::connect(stage.address).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        // The gateway may close the connection before all is written.
        drop(writing.write_all(&bytes).await);
        writing
    });
    let mut answer = Vec::new();
    // A reset after the last frame is an end too.
    drop(reading.read_to_end(&mut answer).await);
    drop(writing.await);
    let frames = frames(&answer);

    let (SETTINGS, settings) = frames[0] else { panic!("{frames:?}") };
    let setting = |id: u8| settings.chunks(6).find(|it| it[..2] == [0, id]).map(|it| &it[2..]);
    assert_eq!(setting(3), Some(&100_u32.to_be_bytes()[..]), "concurrent streams");
    assert_eq!(setting(6), Some(&65_536_u32.to_be_bytes()[..]), "size of heads");

    let enough = frames.iter().find(|(kind, _)| *kind == GOAWAY);
    let calm = 0xb_u32.to_be_bytes();
    assert_eq!(enough.map(|(_, payload)| &payload[4..8]), Some(&calm[..]), "{frames:?}");
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
}
