//! Who answers, rule by rule.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::Uri;
use backscroll_gateway::{
    clock::Clock,
    proto::v1::{FeederBounds, GetFeederResponse},
};
use tonic::{Code, Status};

use super::{MISSING, TARGET};
use crate::support::{
    Beside, NOW_MS,
    client::{Answer, Ask},
    history::{Asked, refusal, refusal_with},
    homeserver::{ANSWER, response},
    peer::Peer,
    until,
};

/// What is asked when the homeserver has answered: its answer, unchanged.
fn assert_by_homeserver(answer: &Answer, reason: &str) {
    let told = format!("synapse;reason={reason}");
    assert_eq!((answer.by(), answer.status), (&*told, 200), "{answer:?}");
    assert_eq!(answer.body, ANSWER.as_bytes());
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

fn no_port() -> Uri {
    // No program listens on port 1.
    Uri::from_static("http://127.0.0.1:1")
}

#[tokio::test]
async fn the_history_service_answers_what_it_can() {
    let Beside { stage, homeserver, .. } = Beside::start().await;
    for answer in
        [stage.get(TARGET).await, stage.post(MISSING, r#"{"latest_events":["$a"]}"#).await]
    {
        assert_eq!((answer.by(), answer.status), ("history", 200));
    }
    assert_eq!(homeserver.arrived(), []);
    let bounds = stage.history.asked().into_iter().map(|asked| match asked {
        Asked::Backfill(asked) => asked.feeder_bounds,
        Asked::GetMissingEvents(asked) => asked.feeder_bounds,
    });
    let proto = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let expected = FeederBounds { max_lag: proto(5, 0), max_wait: proto(0, 300_000_000) };
    assert_eq!(bounds.collect::<Vec<_>>(), [Some(expected), Some(expected)]);
}

#[tokio::test]
async fn what_the_history_service_refuses_or_fails_to_answer() {
    let Beside { stage, homeserver, .. } = Beside::start().await;
    let mut rows: Vec<(Status, &str)> = Vec::new();
    for (code, reason, metadata, expected) in [
        (Code::PermissionDenied, "NOT_ALLOWED", &[("final", "true")][..], "history"),
        (Code::PermissionDenied, "NOT_ALLOWED", &[("final", "false")], "not_final"),
        (Code::PermissionDenied, "NOT_ALLOWED", &[], "not_final"),
        (Code::PermissionDenied, "ROOM_NOT_HELD", &[("final", "true")], "room_not_held"),
        (Code::PermissionDenied, "ROOM_NOT_HELD", &[("final", "false")], "room_not_held"),
        (
            Code::PermissionDenied,
            "ROOM_NOT_SERVED",
            &[("not_served_reason", "PARTIAL_STATE")],
            "room_not_served",
        ),
        (Code::PermissionDenied, "NOT_FOR_GATEWAYS", &[], "history_failed"),
        (Code::Unavailable, "FEEDER_BEHIND", &[("feeder", "AWAY")], "feeder_away"),
        (Code::Unavailable, "FEEDER_BEHIND", &[("feeder", "NOT_READY")], "feeder_not_ready"),
        (Code::Unavailable, "FEEDER_BEHIND", &[("feeder", "BEHIND")], "feeder_behind"),
        (Code::Unavailable, "OPENING", &[], "history_away"),
        (Code::Unavailable, "STORE_AWAY", &[], "history_away"),
        (Code::Unavailable, "", &[], "history_away"),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[], "history_slow"),
        (Code::Cancelled, "", &[], "history_slow"),
        (Code::Aborted, "ROOM_CHANGES", &[], "room_changes"),
        (Code::DataLoss, "STORE_CORRUPT", &[], "history_failed"),
        (Code::Internal, "STORE_FAILED", &[], "history_failed"),
        (Code::Internal, "INTERNAL", &[], "history_failed"),
        (Code::FailedPrecondition, "ROOM_VERSION_UNKNOWN", &[], "history_failed"),
        (Code::Unauthenticated, "TOKEN_INVALID", &[], "history_failed"),
        (Code::Unimplemented, "", &[], "history_failed"),
        (Code::Unknown, "", &[], "history_failed"),
        // Refused by a limit, or malformed.
        (Code::ResourceExhausted, "BUSY", &[], "history"),
        (Code::InvalidArgument, "LIMIT_INVALID", &[], "history"),
        (Code::InvalidArgument, "EVENT_IDS_MISSING", &[], "history"),
    ] {
        rows.push((refusal_with(code, reason, metadata), expected));
    }
    for (status, expected) in rows {
        let told = status.clone();
        stage.history.respond(move || Err(told.clone()));
        for ask in [Ask::new("GET", TARGET), Ask::new("POST", MISSING).body("{}")] {
            let answer = stage.send(ask.signed_by(&stage.peer)).await;
            let arrived = homeserver.arrived();
            if expected == "history" {
                // A 403 does not tell who has answered.
                let by = if answer.status == 403 { "" } else { "history" };
                assert_eq!((answer.by(), arrived.len()), (by, 0), "{status:?}");
                assert!([400, 403, 429].contains(&answer.status), "{status:?}");
                assert!(!answer.json().to_string().contains("inner workings"));
            } else {
                assert_by_homeserver(&answer, expected);
                assert_eq!(arrived.len(), 1, "{status:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_event_that_may_still_come() {
    let Beside { stage, homeserver, .. } = Beside::start().await;
    stage.history.set_not_final(true);
    assert_by_homeserver(&stage.get(TARGET).await, "not_final");
    assert_by_homeserver(&stage.post(MISSING, "{}").await, "not_final");
    assert_eq!(homeserver.arrived().len(), 2);
    stage.history.set_not_final(false);
    assert_eq!(stage.get(TARGET).await.by(), "history");
}

#[tokio::test]
async fn a_history_service_that_is_away_or_slow() {
    let Beside { stage, .. } = Beside::start_with(|options, fallback| {
        options.history = no_port().into();
        // It is not waited for.
        fallback.history_time = Duration::from_secs(20);
    })
    .await;
    assert_by_homeserver(&stage.get(TARGET).await, "history_away");

    let Beside { stage, .. } = Beside::start_with(|_, fallback| {
        fallback.history_time = Duration::from_millis(50);
    })
    .await;
    let _hold = stage.history.hold();
    assert_by_homeserver(&stage.get(TARGET).await, "history_slow");
    assert_by_homeserver(&stage.post(MISSING, "{}").await, "history_slow");
}

#[tokio::test]
async fn what_is_never_passed_on() {
    let Beside { stage, homeserver, .. } = Beside::start_with(|options, _| {
        options.history = no_port().into();
        options.limits.server_rate = 1;
        options.limits.server_burst = 1;
        options.limits.server_queue_timeout = Duration::from_millis(1);
    })
    .await;
    let stranger = Peer::new("stranger.example", 9);
    let wrong = stage.peer.header(&"A".repeat(86));
    let odd_room = "/_matrix/federation/v1/backfill/r?v=$a&limit=1";
    for (ask, status) in [
        (Ask::new("GET", TARGET), 401),
        (Ask::new("GET", TARGET).authorization(&wrong), 401),
        (Ask::new("GET", TARGET).authorization("X-Matrix nonsense"), 401),
        (Ask::new("POST", MISSING).body("{}").authorization(&wrong), 401),
        (Ask::new("POST", MISSING).body("{").signed_by(&stage.peer), 400),
        (Ask::new("POST", MISSING).body(r#"{"limit":"x"}"#).signed_by(&stage.peer), 400),
        (Ask::new("GET", odd_room).signed_by(&stage.peer), 400),
        // Malformed requests whose signatures cannot be verified.
        (Ask::new("POST", MISSING).body(r#"{"limit":"x"}"#).signed_by(&stranger), 401),
        (Ask::new("GET", odd_room).signed_by(&stranger), 401),
        (Ask::new("PUT", TARGET).signed_by(&stage.peer), 405),
        (Ask::new("GET", "/_matrix/federation/v1/version"), 404),
    ] {
        let answer = stage.send(ask).await;
        assert_eq!((answer.refusal().0, answer.by()), (status, "history"));
    }
    assert_eq!(homeserver.arrived(), []);
    assert_by_homeserver(&stage.get(TARGET).await, "history_away");
    assert_eq!(stage.get(TARGET).await.refusal().0, 429);
    assert_eq!(homeserver.arrived().len(), 1);
}

/// A path that a server in between could read as another one.
#[tokio::test]
async fn a_room_id_that_leads_elsewhere() {
    let Beside { stage, homeserver, .. } =
        Beside::start_with(|options, _| options.history = no_port().into()).await;
    let target = "/_matrix/federation/v1/backfill/!r%2F..%2F..%2Fx:us.example?v=$a&limit=1";
    let answer = stage.get(target).await;
    assert_eq!((answer.refusal().0, answer.by()), (503, "history"));
    assert_eq!(homeserver.arrived(), []);
}

/// The homeserver verifies what the gateway cannot.
#[tokio::test]
async fn a_server_whose_keys_cannot_be_had() {
    let Beside { stage, homeserver, .. } =
        Beside::start_with(|options, _| options.limits.fallback_concurrency = 4).await;
    let stranger = Peer::new("stranger.example", 9);
    let ask = || Ask::new("GET", TARGET).signed_by(&stranger);
    assert_by_homeserver(&stage.send(ask()).await, "no_keys");
    let body = r#"{"latest_events":["$a"]}"#;
    let post = Ask::new("POST", MISSING).body(body).signed_by(&stranger);
    assert_by_homeserver(&stage.send(post).await, "no_keys");
    assert_eq!(homeserver.arrived()[1].body, body.as_bytes());
    assert_eq!(stage.history.asked(), []);

    // Its refusals are passed on. Whoever gives a 403, it looks the same.
    homeserver.reply(response(403, "", r#"{"errcode":"M_FORBIDDEN","error":"no"}"#));
    let answer = stage.send(ask()).await;
    assert_eq!((answer.status, answer.header("x-backscroll")), (403, None));
    homeserver.reply(response(401, "", r#"{"errcode":"M_UNAUTHORIZED","error":"no"}"#));
    let answer = stage.send(ask()).await;
    assert_eq!((answer.status, answer.by()), (401, "synapse;reason=no_keys"));
    assert_eq!(answer.json()["error"], "no");

    // While there are too many of them, they are refused here; others are not affected.
    let held = homeserver.hold();
    let (address, bytes) = (stage.address, ask().bytes());
    let first = tokio::spawn(async move { crate::support::client::send(address, &bytes).await });
    homeserver.holds(1).await;
    let answer = stage.send(ask()).await;
    assert_eq!((answer.refusal().0, answer.by()), (401, "history"));
    assert_eq!(stage.get(TARGET).await.by(), "history");
    held.add_permits(9);
    assert_eq!(first.await.unwrap().status, 401);
}

#[tokio::test]
async fn the_homeserver_is_away_too() {
    let Beside { stage, .. } = Beside::start_with(|_, fallback| {
        fallback.url = no_port();
        fallback.first_of_origin = true;
    })
    .await;
    // The first request of the server: the history service answers it.
    assert_eq!(stage.get(TARGET).await.status, 200);
    for (code, reason, status) in [
        // As without a fallback.
        (Code::Unavailable, "OPENING", 503),
        (Code::Unavailable, "FEEDER_BEHIND", 503),
        (Code::DeadlineExceeded, "", 504),
        (Code::Aborted, "ROOM_CHANGES", 429),
        (Code::Internal, "STORE_FAILED", 500),
        // 403 could be wrong.
        (Code::PermissionDenied, "NOT_ALLOWED", 502),
        (Code::PermissionDenied, "ROOM_NOT_HELD", 502),
        (Code::PermissionDenied, "ROOM_NOT_SERVED", 502),
    ] {
        stage.history.respond(move || Err(refusal(code, reason)));
        let answer = stage.get(TARGET).await;
        assert_eq!((answer.refusal().0, answer.by()), (status, "history"), "{reason}");
    }
    stage.history.respond(|| Ok(Vec::new()));
    stage.history.set_not_final(true);
    assert_eq!(stage.get(TARGET).await.refusal().0, 502);
    let stranger = Peer::new("stranger.example", 9);
    let answer = stage.send(Ask::new("GET", TARGET).signed_by(&stranger)).await;
    assert_eq!(answer.refusal().0, 401);
}

#[tokio::test]
async fn the_first_request_of_each_server_in_a_minute() {
    let now = Arc::new(AtomicU64::new(NOW_MS));
    let clock = Arc::clone(&now);
    let Beside { stage, homeserver, .. } = Beside::start_with(|options, fallback| {
        fallback.first_of_origin = true;
        options.clock = Clock::new(move || clock.load(Ordering::SeqCst).min(NOW_MS)).with_steady({
            let now = Arc::clone(&now);
            move || Duration::from_millis(now.load(Ordering::SeqCst))
        });
    })
    .await;
    let other = Peer::new("other.example", 2);
    let unsigned = Ask::new("GET", TARGET).authorization(stage.peer.header(&"A".repeat(86)));
    // An invalid request is none.
    assert_eq!(stage.send(unsigned).await.status, 401);
    assert_by_homeserver(&stage.get(TARGET).await, "first_of_origin");
    assert_eq!(stage.get(TARGET).await.by(), "history");
    let others = Ask::new("POST", MISSING).body("{}").signed_by(&other);
    assert_by_homeserver(&stage.send(others).await, "first_of_origin");
    now.fetch_add(59_999, Ordering::SeqCst);
    assert_eq!(stage.get(TARGET).await.by(), "history");
    now.fetch_add(1, Ordering::SeqCst);
    assert_by_homeserver(&stage.get(TARGET).await, "first_of_origin");
    assert_eq!(stage.get(TARGET).await.by(), "history");
    assert_eq!(homeserver.arrived().len(), 3);
}

#[tokio::test]
async fn ready_while_one_of_both_answers() {
    let Beside { stage, homeserver, .. } = Beside::start().await;
    let ready = async || stage.send(Ask::new("GET", "/readyz")).await.status;
    stage.history.set_serving(false).await;
    assert_eq!(ready().await, 200);
    assert_eq!(homeserver.next().await.target(), "/_matrix/federation/v1/version");
    homeserver.reply(response(503, "", ""));
    until("not ready", async || ready().await == 503).await;
    stage.history.set_serving(true).await;
    assert_eq!(ready().await, 200);
    // The probes do not tell who answers.
    assert_eq!(stage.send(Ask::new("GET", "/readyz")).await.by(), "");
}

#[tokio::test]
async fn the_feeder_is_shown_in_the_metrics() {
    let Beside { stage, metrics, .. } = Beside::start().await;
    let registry = metrics.registry();
    let shows = |line: &str| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().any(|it| it == line)
    };
    assert_eq!(stage.get(TARGET).await.by(), "history");
    assert!(shows("backscroll_gateway_fallback_total{reason=\"not_final\"} 0"));
    assert!(shows("backscroll_gateway_feeder_ready 0"));
    stage.history.set_feeder(GetFeederResponse {
        feeder_name: "synapse".to_owned(),
        ready: true,
        lag: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        ..GetFeederResponse::default()
    });
    until("the feeder in the metrics", async || {
        shows("backscroll_gateway_feeder_ready 1")
            && shows("backscroll_gateway_feeder_lag_seconds 1.5")
    })
    .await;
    stage.history.set_not_final(true);
    assert_by_homeserver(&stage.get(TARGET).await, "not_final");
    assert!(shows("backscroll_gateway_fallback_total{reason=\"not_final\"} 1"));
    until("the answer is written", async || shows("backscroll_gateway_fallback_in_flight 0")).await;
}
