//! Which requests are authenticated. The grammar of the header has tests of its own.

use crate::support::{NOW_MS, Stage, US, client::Ask, peer::Peer, pinned};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2Bb&limit=1";

/// Sends a request with these Authorization headers.
async fn status(stage: &Stage, headers: &[&str]) -> u16 {
    let ask = Ask::new("GET", TARGET);
    let ask = headers.iter().copied().fold(ask, Ask::authorization);
    let answer = stage.send(ask).await;
    if answer.status != 200 {
        assert_eq!(answer.refusal(), (401, "M_UNAUTHORIZED".to_owned()), "{headers:?}");
        assert_eq!(stage.history.asked(), [], "{headers:?}");
    }
    answer.status
}

#[tokio::test]
async fn one_header() {
    let stage = Stage::start().await;
    let Peer { name, key_id, .. } = &stage.peer;
    let sig = &stage.peer.sig("GET", TARGET, None);
    for (header, expected) in [
        (stage.peer.header(sig), 200),
        (format!(r#"X-Matrix origin="{name}",key="{key_id}",sig="{sig}""#), 200),
        (format!("x-matrix  ORIGIN={name} , key={key_id},sig={sig}==,x=\"a,b\""), 200),
        (
            format!(
                r#"X-Matrix origin="{name}",destination="{US}",key="{key_id}",signature="{sig}""#
            ),
            200,
        ),
        (
            format!(
                r#"X-Matrix origin="{name}",destination="else.example",key="{key_id}",sig="{sig}""#
            ),
            401,
        ),
        (
            format!(
                r#"X-Matrix origin="{name}",destination="US.example",key="{key_id}",sig="{sig}""#
            ),
            401,
        ),
        (format!(r#"X-Matrix origin="{name}",destination="",key="{key_id}",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="{name}",key="ed25519:other",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="{name}",key="rsa:1",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="unknown.example",key="{key_id}",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="other.example",key="ed25519:k2",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="{name}",origin="{name}",key="{key_id}",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="a b",key="{key_id}",sig="{sig}""#), 401),
        (format!(r#"X-Matrix key="{key_id}",sig="{sig}""#), 401),
        (format!(r#"X-Matrix origin="{name}",key="{key_id}",sig="AAAA""#), 401),
        (format!("{},x=\"{}\"", stage.peer.header(sig), "a".repeat(9_000)), 401),
        ("X-Matrix".to_owned(), 401),
        ("X-Matrix \u{fe}=\"".to_owned(), 401),
        ("Bearer token".to_owned(), 401),
        (String::new(), 401),
    ] {
        assert_eq!(status(&stage, &[&header]).await, expected, "{header}");
        drop(stage.history.asked());
    }
    assert_eq!(status(&stage, &[]).await, 401);
}

#[tokio::test]
async fn several_headers_must_agree_and_all_known_keys_must_fit() {
    let stage = Stage::start().await;
    let sig = &stage.peer.sig("GET", TARGET, None);
    let good = &*stage.peer.header(sig);
    let unknown_key = &*Peer { key_id: "ed25519:new".to_owned(), ..stage.peer.clone() }.header(sig);
    let wrong_sig = &*stage.peer.header(&stage.peer.sig("GET", "/", None));
    let other = Peer::new("other.example", 2);
    let other = &*other.header(&other.sig("GET", TARGET, None));
    for (headers, expected) in [
        (&["Bearer x", good][..], 200),
        (&[good, "Basic eDp5"], 200),
        (&[good, good], 200),
        (&[good, unknown_key], 200),
        (&[unknown_key, good], 200),
        (&[unknown_key], 401),
        (&[good, wrong_sig], 401),
        (&[wrong_sig, good], 401),
        (&[good, other], 401),
        (&[other, good], 401),
        (&[good, "X-Matrix origin"], 401),
        (&[good; 8], 200),
        (&[good; 9], 401),
    ] {
        assert_eq!(status(&stage, headers).await, expected, "{headers:?}");
        drop(stage.history.asked());
    }
}

#[tokio::test]
async fn the_signature_covers_the_request_as_sent() {
    let stage = Stage::start().await;
    let impostor = Peer { key_id: stage.peer.key_id.clone(), ..Peer::new(&stage.peer.name, 9) };
    for (signed, sent, expected) in [
        (("GET", TARGET), TARGET, 200),
        (("POST", TARGET), TARGET, 401),
        (("get", TARGET), TARGET, 401),
        // Changed or normalised on the way.
        (("GET", TARGET), "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2Bb&limit=2", 401),
        (("GET", TARGET), "/_matrix/federation/v1/backfill/!r:us.example?v=$a%2bb&limit=1", 401),
        (("GET", TARGET), "/_matrix/federation/v1/backfill/!r:us.example?v=$a+b&limit=1", 401),
        (("GET", TARGET), "/_matrix/federation/v1/backfill/%21r:us.example?v=$a%2Bb&limit=1", 401),
        (("GET", TARGET), "/_matrix/federation/v1/backfill/!r:us.example/?v=$a%2Bb&limit=1", 401),
    ] {
        let sig = stage.peer.sig(signed.0, signed.1, None);
        let ask = Ask::new("GET", sent).authorization(stage.peer.header(&sig));
        assert_eq!(stage.send(ask).await.status, expected, "{signed:?} {sent}");
    }
    assert_eq!(stage.send(Ask::new("GET", TARGET).signed_by(&impostor)).await.status, 401);
    // Another destination in the signed object.
    let object = serde_json::json!({
        "method": "GET", "uri": TARGET, "origin": stage.peer.name, "destination": "else.example",
    });
    let header = stage.peer.header(&stage.peer.signature(&object));
    assert_eq!(stage.send(Ask::new("GET", TARGET).authorization(header)).await.status, 401);
}

#[tokio::test]
async fn expired_keys_authenticate_no_request() {
    // The peer's keys are valid until exactly now.
    let stage = Stage::start().await;
    assert_eq!(stage.get(TARGET).await.status, 200);
    let late = Stage::start_with(|options| {
        options.clock = backscroll_gateway::clock::Clock::new(|| NOW_MS + 1);
    })
    .await;
    let answer = late.get(TARGET).await;
    assert_eq!(answer.refusal(), (401, "M_UNAUTHORIZED".to_owned()));
    assert!(answer.json()["error"].as_str().unwrap().contains("expired"));
}

#[tokio::test]
async fn without_keys_the_response_says_why() {
    let stage = Stage::start_with(|options| options.keys = pinned(&[])).await;
    let answer = stage.get(TARGET).await;
    assert_eq!(answer.refusal(), (401, "M_UNAUTHORIZED".to_owned()));
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("peer.example:8448") && error.contains("no keys"), "{error}");
}
