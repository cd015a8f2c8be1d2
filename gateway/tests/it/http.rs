//! HTTP below the endpoints: paths, methods, sizes, timeouts.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    Stage,
    client::{self, Ask},
    within,
};

const BACKFILL: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

#[tokio::test]
async fn unknown_paths() {
    let stage = Stage::start().await;
    for path in [
        "/",
        "/_matrix/federation/v1/backfill",
        "/_matrix/federation/v1/backfill/",
        "/_matrix/federation/v1/backfill/!r:us.example/x",
        "/_matrix/federation/v2/backfill/!r:us.example?v=$a&limit=1",
        "/_matrix/federation/v2/get_missing_events/!r:us.example",
        "/_matrix/federation/v1/event/$a",
        "/_matrix/federation/v1/%62ackfill/!r:us.example",
        "//_matrix/federation/v1/backfill/!r:us.example",
        "/healthz/",
    ] {
        for method in ["GET", "POST", "PUT"] {
            let answer = stage.send(Ask::new(method, path).signed_by(&stage.peer)).await;
            assert_eq!(answer.refusal(), (404, "M_UNRECOGNIZED".to_owned()), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn wrong_methods_hear_the_right_ones() {
    let stage = Stage::start().await;
    for (target, methods, allow) in [
        (BACKFILL, &["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "WHAT"][..], "GET,HEAD"),
        (MISSING, &["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "post"], "POST"),
        ("/readyz", &["POST"], "GET,HEAD"),
    ] {
        for method in methods {
            let answer = stage.send(Ask::new(method, target).signed_by(&stage.peer)).await;
            assert_eq!(answer.refusal(), (405, "M_UNRECOGNIZED".to_owned()), "{method} {target}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
        }
    }
    let answer = stage.send(Ask::new("HEAD", MISSING)).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}

/// Refused by its Content-Length. A client that sends the whole body still gets the response.
#[tokio::test]
async fn a_body_too_large_by_its_length() {
    let stage = Stage::start().await;
    let ask = Ask::new("POST", MISSING).body(vec![b' '; 2 * 1024 * 1024]).signed_by(&stage.peer);
    assert_eq!(stage.send(ask).await.refusal(), (413, "M_TOO_LARGE".to_owned()));

    // One byte too many, none of which is sent.
    let head = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        256 * 1024 + 1
    );
    let answer = client::send(stage.address, head.as_bytes()).await;
    assert_eq!(answer.refusal(), (413, "M_TOO_LARGE".to_owned()));

    // The largest body that is allowed.
    let mut body = vec![b' '; 256 * 1024];
    body[..2].copy_from_slice(b"{}");
    let ask = Ask::new("POST", MISSING).body(body).signed_by(&stage.peer);
    assert_eq!(stage.send(ask).await.status, 200);
}

/// Refused while it is read. A client that sends the whole body still gets the response.
#[tokio::test]
async fn a_body_too_large_in_chunks() {
    let stage = Stage::start().await;
    let mut request =
        format!("POST {MISSING} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").into_bytes();
    request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    request.extend(chunk.repeat(32));
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = client::send(stage.address, &request).await;
    assert_eq!(answer.refusal(), (413, "M_TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn chunks_that_fit_are_a_body() {
    let stage = Stage::start().await;
    let sig = stage.peer.sig("POST", MISSING, Some(serde_json::json!({})));
    let request = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1\r\n}}\r\n0\r\n\r\n",
        stage.peer.header(&sig)
    );
    assert_eq!(client::send(stage.address, request.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_encoded() {
    let stage = Stage::start().await;
    for (encoding, status) in [("gzip", 415), ("br, identity", 415), ("identity", 200)] {
        let ask = Ask::new("POST", MISSING).body("{}").signed_by(&stage.peer);
        let answer = stage.send(ask.header("Content-Encoding", encoding)).await;
        assert_eq!(answer.status, status, "{encoding}");
        if status != 200 {
            assert_eq!(answer.refusal().1, "M_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let stage = Stage::start_with(|options| {
        options.limits.body_timeout = Duration::from_millis(500);
    })
    .await;
    let head = format!("POST {MISSING} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{");
    let answer = client::send(stage.address, head.as_bytes()).await;
    assert_eq!(answer.refusal(), (408, "M_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let stage = Stage::start_with(|options| {
        options.limits.head_timeout = Duration::from_millis(500);
    })
    .await;
    for start in ["", "GET / HT"] {
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let answer = within("closed", client::read(&mut stream)).await;
        assert!(answer.is_none(), "{answer:?}");
    }
}

#[tokio::test]
async fn heads_too_large() {
    let stage = Stage::start().await;
    let many =
        (0..100).fold(Ask::new("GET", BACKFILL), |ask, nth| ask.header(&format!("x{nth}"), "1"));
    assert_eq!(stage.send(many).await.status, 431);
    // hyper's buffer grows by doubling, so somewhat larger heads may fit.
    let long = Ask::new("GET", BACKFILL).header("x", "a".repeat(300_000));
    assert_eq!(stage.send(long).await.status, 431);
    let target = format!("{BACKFILL}&x={}", "a".repeat(100_000));
    let status = stage.send(Ask::new("GET", &target)).await.status;
    assert!(matches!(status, 414 | 431), "{status}");
    // A hundred event ids fit.
    let ids: String = (0..100).map(|nth| format!("&v=%24{}{nth}", "a".repeat(60))).collect();
    assert_eq!(stage.get(&format!("{BACKFILL}{ids}")).await.status, 200);
}
