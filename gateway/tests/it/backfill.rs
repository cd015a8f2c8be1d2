//! `GET /backfill`: the request to the history service, and the response to the client.

use backscroll_gateway::proto::v1::{BackfillRequest, Requester};
use tonic::Code;

use crate::support::{
    NOW_MS, Stage, US,
    client::Ask,
    history::{Asked, refusal},
};

const PATH: &str = "/_matrix/federation/v1/backfill";

fn question(event_ids: &[&str], limit: Option<u32>) -> Asked {
    Asked::Backfill(BackfillRequest {
        feeder_bounds: None,
        room_id: "!r:us.example".to_owned(),
        requester: Some(Requester {
            origin: "peer.example:8448".to_owned(),
            destination: US.to_owned(),
        }),
        event_ids: event_ids.iter().map(|id| (*id).to_owned()).collect(),
        limit,
        omit_event_ids: true,
    })
}

#[tokio::test]
async fn pdus_pass_through_byte_for_byte() {
    let stage = Stage::start().await;
    let weird = [&br#"{"a":1.0, "b" : 1e5}"#[..], b"{ }", "{\"\u{e9}\":\"\\u00e9\"}".as_bytes()];
    stage.history.respond(move || Ok(weird.iter().map(|pdu| pdu.to_vec()).collect()));

    let answer = stage.get(&format!("{PATH}/!r:us.example?v=$a&v=$b&limit=10")).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    let expected = format!(
        r#"{{"origin":"{US}","origin_server_ts":{NOW_MS},"pdus":[{{"a":1.0, "b" : 1e5}},{{ }},{{"é":"\u00e9"}}]}}"#
    );
    assert_eq!(String::from_utf8(answer.body).unwrap(), expected);
    assert_eq!(stage.history.asked(), [question(&["$a", "$b"], Some(10))]);
}

#[tokio::test]
async fn an_empty_answer_is_a_whole_envelope() {
    let stage = Stage::start().await;
    let answer = stage.get(&format!("{PATH}/!r:us.example?v=$a&limit=1")).await;
    assert_eq!(
        String::from_utf8(answer.body).unwrap(),
        format!(r#"{{"origin":"{US}","origin_server_ts":{NOW_MS},"pdus":[]}}"#)
    );
}

#[tokio::test]
async fn as_many_of_the_largest_pdus_as_an_answer_may_hold() {
    let stage = Stage::start().await;
    let pdu = format!(r#"{{"a":"{}"}}"#, "x".repeat(65_536 - 8)).into_bytes();
    assert_eq!(pdu.len(), 65_536);
    stage.history.respond(move || Ok(vec![pdu.clone(); 63]));

    let answer = stage.get(&format!("{PATH}/!r:us.example?v=$a&limit=100")).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["pdus"].as_array().unwrap().len(), 63);
    assert!(answer.body.len() > 63 * 65_536);
}

/// Invalid parameters are passed on: the history service decides about access first.
#[tokio::test]
async fn parameters_and_their_faults_reach_the_history_service() {
    let stage = Stage::start().await;
    let missing = (400, "M_MISSING_PARAM");
    let invalid = (400, "M_INVALID_PARAM");
    let ok = (200, "");
    for (query, event_ids, limit, (status, errcode)) in [
        ("v=$a&limit=100", &["$a"][..], Some(100), ok),
        ("v=$a&limit=0", &["$a"], Some(0), invalid),
        ("v=$a&limit=-1", &["$a"], Some(0), invalid),
        ("v=$a&limit=abc", &["$a"], Some(0), invalid),
        ("v=$a&limit=", &["$a"], Some(0), invalid),
        ("v=$a&limit=99999999999999999999", &["$a"], Some(u32::MAX), ok),
        ("v=$a&limit=5&limit=0", &["$a"], Some(5), ok),
        ("v=$a", &["$a"], None, missing),
        ("limit=5", &[], Some(5), missing),
        ("v=&limit=5", &[], Some(5), missing),
        ("v&limit=5", &[], Some(5), missing),
        ("", &[], None, missing),
        ("v=&v=$b&limit=5", &["$b"], Some(5), ok),
        // Event ids of room version 3, percent-encoded or not.
        ("v=%24a%2Bb%2Fc&limit=5", &["$a+b/c"], Some(5), ok),
        ("v=$a+b/c&limit=5", &["$a+b/c"], Some(5), ok),
        ("v=%FF&limit=5", &["\u{fffd}"], Some(5), ok),
        ("v=$a&limit=5&unknown=1", &["$a"], Some(5), ok),
    ] {
        let answer = stage.get(&format!("{PATH}/!r:us.example?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        if status != 200 {
            assert_eq!(answer.refusal(), (status, errcode.to_owned()), "{query}");
        }
        assert_eq!(stage.history.asked(), [question(event_ids, limit)], "{query}");
    }
}

#[tokio::test]
async fn access_is_decided_before_parameters() {
    let stage = Stage::start().await;
    stage.history.respond(|| Err(refusal(Code::PermissionDenied, "NOT_ALLOWED")));
    for query in ["", "?limit=0", "?v=$a&limit=10"] {
        let answer = stage.get(&format!("{PATH}/!r:us.example{query}")).await;
        assert_eq!(answer.refusal(), (403, "M_FORBIDDEN".to_owned()), "{query}");
    }
}

/// The signature covers the target as it was sent; the room id is the decoded one.
#[tokio::test]
async fn room_ids_raw_and_encoded() {
    let stage = Stage::start().await;
    for (spelling, room_id) in [
        ("!r:us.example", "!r:us.example"),
        ("%21r%3Aus.example", "!r:us.example"),
        ("%21%72:us.example/", "!r:us.example"),
        ("!a%2Fb+c%20d:us.example", "!a/b+c d:us.example"),
        (
            "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
            "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
        ),
    ] {
        let answer = stage.get(&format!("{PATH}/{spelling}?v=$a&limit=1")).await;
        assert_eq!(answer.status, 200, "{spelling}");
        let asked = stage.history.asked();
        let [Asked::Backfill(BackfillRequest { room_id: asked, .. })] = &*asked else {
            panic!("{asked:?}")
        };
        assert_eq!(asked, room_id);
    }
    let long = format!("!{}", "a".repeat(255));
    for spelling in
        ["", "r:us.example", "$r:us.example", "!r%00:us.example", "!r%FF:us.example", &long]
    {
        let answer = stage.get(&format!("{PATH}/{spelling}/?v=$a&limit=1")).await;
        assert_eq!(answer.refusal(), (400, "M_INVALID_PARAM".to_owned()), "{spelling}");
        assert_eq!(stage.history.asked(), []);
    }
}

#[tokio::test]
async fn head_is_signed_as_head_and_has_no_body() {
    let stage = Stage::start().await;
    let target = format!("{PATH}/!r:us.example?v=$a&limit=1");
    let answer = stage.send(Ask::new("HEAD", &target).signed_by(&stage.peer)).await;
    assert_eq!((answer.status, &*answer.body), (200, &b""[..]));
    assert!(answer.header("content-length").is_some_and(|length| length != "0"));

    let as_get = stage.peer.header(&stage.peer.sig("GET", &target, None));
    let answer = stage.send(Ask::new("HEAD", &target).authorization(as_get)).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_body_is_ignored_and_not_signed() {
    let stage = Stage::start().await;
    let target = format!("{PATH}/!r:us.example?v=$a&limit=1");
    let ask = Ask::new("GET", &target).signed_by(&stage.peer);
    assert_eq!(stage.send(ask.body("not JSON")).await.status, 200);
}

#[tokio::test]
async fn the_deadline_is_told_and_kept() {
    let stage = Stage::start_with(|options| {
        options.request_timeout = std::time::Duration::from_millis(50);
    })
    .await;
    let _never_let_go = stage.history.hold();
    let answer = stage.get(&format!("{PATH}/!r:us.example?v=$a&limit=1")).await;
    assert_eq!(answer.refusal(), (504, "M_UNKNOWN".to_owned()));
    // tonic writes nanoseconds.
    let [Some(told)] = &stage.history.heard("grpc-timeout")[..] else { panic!("one question") };
    let nanoseconds: u64 = told.strip_suffix('n').unwrap().parse().unwrap();
    // The rest of 50 ms after the request was parsed.
    assert!((1..=50_000_000).contains(&nanoseconds), "{told}");
}
