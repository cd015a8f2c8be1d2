//! Properties: every request gets a response, and an invalid one never gets a 5xx.
//!
//! Each has 256 cases; `BACKSCROLL_FUZZ_SECONDS=60` runs each for 60 seconds. Earlier failures are kept in
//! `proptest-regressions` and tried first.

use std::{
    cell::LazyCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use backscroll_gateway::server_name::ServerName;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{TestError, TestRunner},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
};

use crate::support::{
    Stage,
    client::{Answer, Ask},
};

const ROOM: &str = "/_matrix/federation/v1/backfill/!r:us.example";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

/// Sends bytes, and reads the response. The gateway need not read all bytes of an invalid request.
async fn status(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    Answer::parse(&answer).map(|answer| answer.status)
}

/// Checks a property with one gateway for all cases.
fn check<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    allowed: fn(u16) -> bool,
    bytes: impl Fn(&Stage, T) -> Vec<u8>,
) {
    let runtime = LazyCell::new(|| Runtime::new().unwrap());
    let stage = runtime.block_on(Stage::start());
    let outcome = for_as_long_as_asked(&strategy, |case| {
        let bytes = bytes(&stage, case);
        let status = runtime.block_on(status(stage.address, &bytes));
        prop_assert!(status.is_some_and(allowed), "{status:?}");
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

/// Runs at least 256 cases.
#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn for_as_long_as_asked<S: Strategy>(
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Result<(), TestError<S::Value>> {
    let seconds = std::env::var("BACKSCROLL_FUZZ_SECONDS").ok().and_then(|it| it.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    // A given seed is for the first run only.
    let mut seeds = TestRunner::new(ProptestConfig::default());
    loop {
        let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), seeds.new_rng());
        runner.run(strategy, &test)?;
        if Instant::now() >= end {
            return Ok(());
        }
    }
}

fn no_5xx(status: u16) -> bool {
    status < 500
}

/// For signed requests: the target is verified as it was sent, and the body as it was meant.
fn neither_5xx_nor_401(status: u16) -> bool {
    status < 500 && status != 401
}

/// Bytes without line ends.
fn line_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("in one line", |byte| !matches!(byte, b'\r' | b'\n')), 0..200)
}

/// Characters that are allowed in a request target.
fn target_text() -> impl Strategy<Value = String> {
    "([vlimt0-9$a-f%&=+_/?;:@!.~-]|v=|&v=|limit=|&limit=|%[0-9A-F]{2}){0,60}"
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-20..200_i64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let member = prop_oneof![
            Just("limit".to_owned()),
            Just("min_depth".to_owned()),
            Just("earliest_events".to_owned()),
            Just("latest_events".to_owned()),
            any::<String>(),
        ];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((member, inner), 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

#[test]
fn any_authorization_header() {
    check(line_bytes(), no_5xx, |_, header| {
        Ask::new("GET", ROOM).authorization([b"X-Matrix ", &*header].concat()).bytes()
    });
}

#[test]
fn any_parameters_in_the_authorization_header() {
    let text = r#"([a-z]|[,="\\ 	]|origin|key|sig|destination|us\.example|ed25519:k1){0,40}"#;
    check(text, no_5xx, |_, header| {
        Ask::new("GET", ROOM).authorization(format!("X-Matrix {header}")).bytes()
    });
}

#[test]
fn any_request_target() {
    check(line_bytes(), no_5xx, |_, target| {
        [b"GET /_matrix/federation/v1/backfill/", &*target, b" HTTP/1.1\r\nHost: x\r\n"]
            .concat()
            .into_iter()
            .chain(*b"Connection: close\r\n\r\n")
            .collect()
    });
}

#[test]
fn any_signed_query() {
    check(target_text(), neither_5xx_nor_401, |stage, query| {
        Ask::new("GET", &format!("{ROOM}?{query}")).signed_by(&stage.peer).bytes()
    });
}

#[test]
fn any_signed_room_id() {
    check("([!a-f:.%+]|%[0-9A-F]{2}){1,60}", neither_5xx_nor_401, |stage, room| {
        let target = format!("/_matrix/federation/v1/backfill/{room}?v=$a&limit=1");
        Ask::new("GET", &target).signed_by(&stage.peer).bytes()
    });
}

#[test]
fn any_body() {
    check(vec(any::<u8>(), 0..300), no_5xx, |stage, body| {
        Ask::new("POST", MISSING).body(body).signed_by(&stage.peer).bytes()
    });
}

#[test]
fn any_signed_json_body() {
    check(json_value(), neither_5xx_nor_401, |stage, body| {
        Ask::new("POST", MISSING).body(body.to_string()).signed_by(&stage.peer).bytes()
    });
}

/// An accepted name is unchanged, and valid for ruma too.
#[test]
fn any_server_name() {
    let text = prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9.:\\[\\]_-]{0,40}",
        "(\\[[0-9a-f:.%]{0,40}\\]|[a-z0-9.-]{1,30})(:[0-9+-]{0,6})?",
    ];
    let outcome = for_as_long_as_asked(&text, |text| {
        if let Ok(name) = text.parse::<ServerName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(ruma::ServerName::parse(&text).is_ok(), "{}", text);
        }
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

/// A valid header with some bytes changed, so that more cases pass the first check.
#[test]
fn a_header_with_some_bytes_changed() {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    check(changes, no_5xx, |stage, changes| {
        let target = format!("{ROOM}?v=$a&limit=1");
        let mut header = stage.peer.header(&stage.peer.sig("GET", &target, None)).into_bytes();
        for (at, byte) in changes {
            if !matches!(byte, b'\r' | b'\n') {
                let at = at.index(header.len());
                header[at] = byte;
            }
        }
        Ask::new("GET", &target).authorization(header).bytes()
    });
}
