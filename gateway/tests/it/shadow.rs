//! Answers of the homeserver are compared with those of the history service, and no answer is delayed or
//! changed by it.

use backscroll_gateway::{
    metrics::Metrics,
    proto::v1::{
        CompareAnswersResponse, ComparisonOutcome, DifferenceReason, EventDifference,
        GetFeederResponse, compare_answers_request::Question,
    },
    shadow::{Answerer, ShadowOptions},
};
use prometheus_client::encoding::prometheus_text;
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::{
    Beside,
    client::{self, Ask},
    history::refusal_with,
    homeserver::{Reply, response},
    until,
};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";
const EVENT: &str = r#"{"type":"x","content":{"body":"secret"}}"#;
const JSON: &str = "Content-Type: application/json\r\n";

/// A gateway that compares, beside a homeserver and a history service that both know [`EVENT`].
async fn comparing(answerer: Answerer, change: impl FnOnce(&mut ShadowOptions)) -> Beside {
    let mut shadow = ShadowOptions::new(answerer);
    change(&mut shadow);
    let beside = Beside::start_with(|options, _| options.shadow = Some(shadow)).await;
    beside.stage.history.respond(|| Ok(vec![EVENT.into()]));
    beside.stage.history.set_feeder(GetFeederResponse {
        feeder_name: "synapse".to_owned(),
        ready: true,
        lag: Some(prost_types::Duration::default()),
        ..GetFeederResponse::default()
    });
    beside.homeserver.reply(backfilled(EVENT));
    beside
}

fn backfilled(events: &str) -> Reply {
    response(
        200,
        JSON,
        &format!(r#"{{"origin":"us.example","origin_server_ts":1,"pdus":[{events}]}}"#),
    )
}

fn count(metrics: &Metrics, result: &str) -> u64 {
    let mut text = String::new();
    prometheus_text::encode(&mut text, &metrics.registry()).unwrap();
    let start = format!(r#"backscroll_gateway_shadow_total{{result="{result}"}} "#);
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |it| it.parse().unwrap())
}

async fn counted(metrics: &Metrics, result: &str, number: u64) {
    until(&format!("{number} comparisons {result}"), async || count(metrics, result) == number)
        .await;
}

fn outcome(outcome: ComparisonOutcome) -> CompareAnswersResponse {
    CompareAnswersResponse { outcome: outcome.into(), ..CompareAnswersResponse::default() }
}

#[tokio::test]
async fn the_history_service_answers_and_the_homeserver_is_asked_the_same() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::History, |_| {}).await;
    let with_unsigned = r#"{"unsigned":{"age":5},"content":{"body":"secret"},"type":"x"}"#;
    homeserver.reply(backfilled(with_unsigned));
    let answer = stage.get(TARGET).await;
    assert_eq!((answer.by(), answer.status), ("history", 200));
    let arrived = homeserver.next().await;
    assert_eq!(arrived.line, format!("GET {TARGET} HTTP/1.1"));
    assert!(arrived.header("authorization")[0].starts_with("X-Matrix "));
    counted(&metrics, "same", 1).await;

    let events = format!(r#"{{"events":[{EVENT}]}}"#);
    homeserver.reply(response(200, JSON, &events));
    let body = r#"{"latest_events":["$a"],"limit":5}"#;
    assert_eq!(stage.post(MISSING, body).await.by(), "history");
    assert_eq!(homeserver.next().await.body, body.as_bytes());
    counted(&metrics, "same", 2).await;
    assert_eq!(stage.history.compared(), []);
}

#[tokio::test]
async fn the_homeserver_answers_everything_byte_for_byte() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::Homeserver, |_| {}).await;
    let answer = stage.get(TARGET).await;
    assert_eq!((answer.by(), answer.status), ("synapse;reason=shadow", 200));
    let Reply::Bytes(sent) = backfilled(EVENT) else { panic!("a whole response") };
    assert!(sent.ends_with(&answer.body));
    counted(&metrics, "same", 1).await;

    // A refusal, and an answer that is not compared because the history service would not give it.
    let forbidden = r#"{"errcode":"M_FORBIDDEN","error":"no"}"#;
    homeserver.reply(response(403, JSON, forbidden));
    let refused = |is_final| {
        move || Err(refusal_with(Code::PermissionDenied, "NOT_ALLOWED", &[("final", is_final)]))
    };
    stage.history.respond(refused("true"));
    assert_eq!(stage.get(TARGET).await.status, 403);
    counted(&metrics, "same", 2).await;
    stage.history.respond(refused("false"));
    assert_eq!(stage.get(TARGET).await.status, 403);
    counted(&metrics, "not_compared", 1).await;
    assert_eq!(stage.history.compared(), []);
}

#[tokio::test]
async fn a_deliberate_difference_is_counted_at_once() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::History, |_| {}).await;
    homeserver.reply(backfilled(""));
    let reasons = vec![DifferenceReason::Limit.into(), DifferenceReason::Outliers.into()];
    let explained = outcome(ComparisonOutcome::Explained);
    stage.history.set_comparison(CompareAnswersResponse { reasons, ..explained });
    assert_eq!(stage.get(TARGET).await.status, 200);
    counted(&metrics, "deliberate_limit", 1).await;
    assert_eq!(homeserver.arrived().len(), 1);
    let [compared] = &stage.history.compared()[..] else { panic!("compared once") };
    assert_eq!(compared.pdus, "[]");
    let Some(Question::Backfill(question)) = &compared.question else { panic!("{compared:?}") };
    assert_eq!(question.event_ids, ["$a"]);
    assert_eq!(question.requester.as_ref().unwrap().origin, stage.peer.name);
}

#[tokio::test]
async fn a_difference_without_an_explanation_is_found_after_both_were_asked_three_times() {
    let mut results = None;
    let Beside { stage, homeserver, metrics } =
        comparing(Answerer::History, |it| results = Some(it.results.clone())).await;
    homeserver.reply(backfilled(r#"{"type":"x","content":{}}"#));
    let differences = vec![EventDifference {
        event_id: "$a".to_owned(),
        our_sha256: vec![0xab; 32].into(),
        homeserver_sha256: vec![0xcd; 32].into(),
    }];
    let unexplained = outcome(ComparisonOutcome::Unexplained);
    stage.history.set_comparison(CompareAnswersResponse { differences, ..unexplained });
    assert_eq!(stage.get(TARGET).await.status, 200);
    counted(&metrics, "unexplained", 1).await;
    assert_eq!(homeserver.arrived().len(), 3);
    assert_eq!(stage.history.asked().len(), 3);
    let page = page(&results.unwrap()).await;
    assert_eq!(page["unexplained"], 1);
    let [found] = &page["last_unexplained"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!(
        (&found["room_id"], &found["endpoint"]),
        (&"!r:us.example".into(), &"backfill".into())
    );
    assert_eq!(found["events"][0]["event_id"], "$a");
    assert_eq!(found["events"][0]["history_sha256"], "ab".repeat(32));
    assert!(!page.to_string().contains("secret"), "content is kept: {page}");
}

/// The page with the results.
async fn page(results: &backscroll_gateway::shadow::ShadowResults) -> serde_json::Value {
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    let service = hyper_util::service::TowerToHyperService::new(results.page());
    let request = axum::http::Request::get("/shadow").body(axum::body::Body::empty()).unwrap();
    let answer = service.call(request).await.unwrap();
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn a_difference_that_is_gone_when_both_are_asked_again_is_a_race() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::History, |_| {}).await;
    homeserver.reply(backfilled(""));
    stage.history.set_comparison(outcome(ComparisonOutcome::Unexplained));
    let held = homeserver.hold();
    assert_eq!(stage.get(TARGET).await.status, 200);
    homeserver.holds(1).await;
    held.add_permits(1);
    // The second answer is another one.
    until("the comparison", async || !stage.history.compared().is_empty()).await;
    homeserver.reply(backfilled(EVENT));
    held.add_permits(1);
    counted(&metrics, "race", 1).await;
    assert_eq!(count(&metrics, "unexplained"), 0);
}

#[tokio::test]
async fn while_the_feeder_does_not_tick_a_difference_is_not_counted() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::History, |_| {}).await;
    homeserver.reply(backfilled(""));
    stage.history.set_comparison(outcome(ComparisonOutcome::Unexplained));
    stage.history.set_feeder(GetFeederResponse::default());
    assert_eq!(stage.get(TARGET).await.status, 200);
    counted(&metrics, "not_compared", 1).await;
    assert_eq!((count(&metrics, "unexplained"), count(&metrics, "race")), (0, 0));
}

#[tokio::test]
async fn a_slow_homeserver_delays_no_answer_and_only_so_many_comparisons_wait_for_it() {
    let Beside { stage, homeserver, metrics } =
        comparing(Answerer::History, |it| it.concurrency = 2).await;
    let held = homeserver.hold();
    for _ in 0..5 {
        assert_eq!(stage.get(TARGET).await.by(), "history");
    }
    counted(&metrics, "not_compared", 3).await;
    homeserver.holds(2).await;
    held.add_permits(2);
    counted(&metrics, "same", 2).await;
    assert_eq!(homeserver.most_under_way(), 2);
}

#[tokio::test]
async fn a_slow_history_service_delays_no_answer_of_the_homeserver() {
    let Beside { stage, metrics, .. } = comparing(Answerer::Homeserver, |_| {}).await;
    let hold = stage.history.hold();
    assert_eq!(stage.get(TARGET).await.by(), "synapse;reason=shadow");
    hold.arrived().await;
    assert_eq!(count(&metrics, "same"), 0);
    hold.release_all();
    counted(&metrics, "same", 1).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_is_too_large_is_not_compared() {
    let Beside { stage, homeserver, metrics } = comparing(Answerer::Homeserver, |_| {}).await;
    homeserver.reply(Reply::Large(9 << 20));
    assert_eq!(stage.get(TARGET).await.body.len(), 9 << 20);
    counted(&metrics, "not_compared", 1).await;
    homeserver.reply(Reply::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{".to_vec()));
    let ask = Ask::new("GET", TARGET).signed_by(&stage.peer);
    let stream = TcpStream::connect(stage.address).await.unwrap();
    drop(client::try_send(stream, &ask.bytes()).await);
    counted(&metrics, "not_compared", 2).await;
    assert_eq!(count(&metrics, "same"), 0);
}

#[tokio::test]
async fn at_rate_zero_nothing_is_compared() {
    let Beside { stage, homeserver, metrics } =
        comparing(Answerer::History, |it| it.rate = 0.0).await;
    for _ in 0..3 {
        assert_eq!(stage.get(TARGET).await.by(), "history");
    }
    assert_eq!(homeserver.arrived(), []);
    assert_eq!(count(&metrics, "same") + count(&metrics, "not_compared"), 0);
}
