//! `POST /get_missing_events`: the request to the history service, and the response to the client.

use backscroll_gateway::proto::v1::{GetMissingEventsRequest, Requester};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Stage, US,
    client::Ask,
    history::{Asked, refusal},
};

const TARGET: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

fn question((earliest, latest): (&[&str], &[&str]), limit: Option<u32>, min_depth: i64) -> Asked {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    Asked::GetMissingEvents(GetMissingEventsRequest {
        feeder_bounds: None,
        room_id: "!r:us.example".to_owned(),
        requester: Some(Requester {
            origin: "peer.example:8448".to_owned(),
            destination: US.to_owned(),
        }),
        earliest_events: owned(earliest),
        latest_events: owned(latest),
        limit,
        min_depth,
        omit_event_ids: true,
    })
}

#[tokio::test]
async fn pdus_pass_through_byte_for_byte() {
    let stage = Stage::start().await;
    stage.history.respond(|| Ok(vec![br#"{"a":1.0, "b" : 1e5}"#.to_vec(), b"{}".to_vec()]));
    let body =
        r#"{"limit":5, "min_depth":3, "earliest_events":["$a"], "latest_events":["$b","$c"]}"#;

    let answer = stage.post(TARGET, body).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!(answer.body, br#"{"events":[{"a":1.0, "b" : 1e5},{}]}"#);
    assert_eq!(stage.history.asked(), [question((&["$a"], &["$b", "$c"]), Some(5), 3)]);

    let answer = stage.post(&format!("{TARGET}/"), body).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn bodies_that_are_taken() {
    let stage = Stage::start().await;
    let none: (&[&str], &[&str]) = (&[], &[]);
    for (body, expected) in [
        ("{}", question(none, None, 0)),
        (" { } ", question(none, None, 0)),
        (r#"{"earliest_events":null,"latest_events":null}"#, question(none, None, 0)),
        (r#"{"limit":null,"min_depth":null}"#, question(none, None, 0)),
        (r#"{"earliest_events":[],"latest_events":["$é\n"]}"#, question((&[], &["$é\n"]), None, 0)),
        (r#"{"limit":0}"#, question(none, Some(0), 0)),
        (r#"{"limit":-5}"#, question(none, Some(0), 0)),
        (r#"{"limit":4294967296}"#, question(none, Some(u32::MAX), 0)),
        (r#"{"limit":9007199254740991}"#, question(none, Some(u32::MAX), 0)),
        (r#"{"min_depth":-1}"#, question(none, None, 0)),
        (r#"{"min_depth":9007199254740991}"#, question(none, None, 9_007_199_254_740_991)),
        (r#"{"unknown":{"a":[true]},"limit":1}"#, question(none, Some(1), 0)),
    ] {
        let answer = stage.post(TARGET, body).await;
        assert_eq!((answer.status, &*answer.body), (200, &br#"{"events":[]}"#[..]), "{body}");
        assert_eq!(stage.history.asked(), [expected], "{body}");
    }
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let stage = Stage::start().await;
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for (body, errcode) in [
        ("not JSON", "M_NOT_JSON"),
        (" ", "M_NOT_JSON"),
        ("{", "M_NOT_JSON"),
        (r#"{"limit":NaN}"#, "M_NOT_JSON"),
        (r#"{"a":"\ud800"}"#, "M_NOT_JSON"),
        (&deep, "M_NOT_JSON"),
        ("[]", "M_BAD_JSON"),
        ("null", "M_BAD_JSON"),
        ("\"text\"", "M_BAD_JSON"),
        ("10", "M_BAD_JSON"),
        (r#"{"limit":1.0}"#, "M_BAD_JSON"),
        (r#"{"limit":1e1}"#, "M_BAD_JSON"),
        (r#"{"a":9007199254740992}"#, "M_BAD_JSON"),
        (r#"{"a":99999999999999999999}"#, "M_BAD_JSON"),
        (r#"{"a":1,"a":1}"#, "M_BAD_JSON"),
        (r#"{"a":{"b":1,"b":2}}"#, "M_BAD_JSON"),
        (r#"{"limit":"10"}"#, "M_BAD_JSON"),
        (r#"{"limit":true}"#, "M_BAD_JSON"),
        (r#"{"limit":[]}"#, "M_BAD_JSON"),
        (r#"{"min_depth":"1"}"#, "M_BAD_JSON"),
        (r#"{"min_depth":{}}"#, "M_BAD_JSON"),
        (r#"{"earliest_events":"$a"}"#, "M_BAD_JSON"),
        (r#"{"earliest_events":{}}"#, "M_BAD_JSON"),
        (r#"{"latest_events":[1]}"#, "M_BAD_JSON"),
        (r#"{"latest_events":["$a",null]}"#, "M_BAD_JSON"),
    ] {
        let answer = stage.post(TARGET, body).await;
        assert_eq!(answer.refusal(), (400, errcode.to_owned()), "{body}");
        assert_eq!(stage.history.asked(), [], "{body}");
    }
    let ask = Ask::new("POST", TARGET).body(b"{\"a\":\"\xff\"}").signed_by(&stage.peer);
    assert_eq!(stage.send(ask).await.refusal(), (400, "M_NOT_JSON".to_owned()));
}

/// Invalid JSON is refused before authentication, JSON of the wrong shape after it.
#[tokio::test]
async fn the_order_of_checks() {
    let stage = Stage::start().await;
    stage.history.respond(|| Err(refusal(Code::PermissionDenied, "NOT_ALLOWED")));
    let bad_room = "/_matrix/federation/v1/get_missing_events/r";
    let unsigned = |target: &str, body: &str| stage.send(Ask::new("POST", target).body(body));

    assert_eq!(unsigned(TARGET, "{").await.refusal().0, 400);
    assert_eq!(unsigned(TARGET, r#"{"limit":1.5}"#).await.refusal().0, 400);
    assert_eq!(unsigned(TARGET, "[]").await.refusal().0, 401);
    assert_eq!(unsigned(bad_room, "{}").await.refusal().0, 401);
    let shape = stage.post(bad_room, "[]").await;
    assert_eq!(shape.refusal(), (400, "M_BAD_JSON".to_owned()));
    let room = stage.post(bad_room, "{}").await;
    assert_eq!(room.refusal(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(stage.history.asked(), []);
    assert_eq!(stage.post(TARGET, "{}").await.refusal(), (403, "M_FORBIDDEN".to_owned()));
}

/// With an empty body, Synapse signs no content, and other servers sign `{}`.
#[tokio::test]
async fn an_empty_body_may_be_signed_either_way() {
    let stage = Stage::start().await;
    for (content, status) in [(None, 200), (Some(json!({})), 200), (Some(json!({"a": 1})), 401)] {
        let sig = stage.peer.sig("POST", TARGET, content);
        let ask = Ask::new("POST", TARGET).authorization(stage.peer.header(&sig));
        assert_eq!(stage.send(ask.clone()).await.status, status);
        assert_eq!(stage.send(ask.body("")).await.status, status);
    }
    // A body that is not empty is signed as it is.
    let sig = stage.peer.sig("POST", TARGET, None);
    let ask = Ask::new("POST", TARGET).body("{}").authorization(stage.peer.header(&sig));
    assert_eq!(stage.send(ask).await.status, 401);
}

/// The parsed body is signed, not its bytes.
#[tokio::test]
async fn another_spelling_of_the_signed_body_is_the_same_body() {
    let stage = Stage::start().await;
    let content = json!({"latest_events": ["$é"], "limit": 3});
    let sig = stage.peer.sig("POST", TARGET, Some(content));
    for (body, status) in [
        (r#"{"latest_events":["$é"],"limit":3}"#, 200),
        (r#" {"limit" : 3, "latest_events":["\u0024\u00e9"] } "#, 200),
        (r#"{"latest_events":["$é"],"limit":4}"#, 401),
        (r#"{"latest_events":["$é"],"limit":3,"extra":1}"#, 401),
    ] {
        let ask = Ask::new("POST", TARGET).body(body).authorization(stage.peer.header(&sig));
        assert_eq!(stage.send(ask).await.status, status, "{body}");
    }
}
