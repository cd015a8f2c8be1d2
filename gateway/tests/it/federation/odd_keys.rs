//! Servers with odd keys and odd answers, each treated as Synapse and gomatrixserverlib treat it.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::Signer as _;
use serde_json::{Value, json};

use super::world::{KEYS, Reply, Set as _, World, ask, granted, refused};
use crate::support::{Stage, client::Ask, peer::Peer};

const NAME: &str = "h.example:99";
const AT: &str = "5.1.1.1:99";
const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$e&limit=1";

/// Changes the answer of the server.
type Change = Box<dyn Fn(&World, &Peer) -> Vec<u8>>;

fn url_safe(text: &str) -> String {
    text.replace('+', "-").replace('/', "_")
}

/// The same bytes in another base64 form, with unused bits set.
fn with_trailing_bits(text: &str) -> String {
    let (rest, last) = text.split_at(text.len() - 1);
    format!("{rest}{}", char::from(last.as_bytes()[0] + 1))
}

/// The answer of this server, changed before it is signed by it.
fn changed(world: &World, peer: &Peer, change: impl FnOnce(&mut Value)) -> Value {
    let mut answer = peer.key_answer_until(world.now() + 60_000);
    answer.as_object_mut().unwrap().remove("signatures");
    change(&mut answer);
    peer.sign(answer)
}

async fn gateway(world: &World, peer: &Peer, answer: Vec<u8>) -> Stage {
    let site = world.server(peer, AT).await;
    site.set(KEYS, Reply { status: 200, body: answer, ..Reply::default() });
    world.gateway(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_every_kind() {
    for id in ["a-b", "a+b/c=", "a.b", "a_B9", "-", "a b", "a:b", "ed25519:"] {
        let world = World::new().await;
        let peer = Peer { key_id: format!("ed25519:{id}"), ..Peer::new(NAME, 7) };
        let answer = peer.key_answer_until(world.now() + 60_000).to_string();
        let gateway = gateway(&world, &peer, answer.into_bytes()).await;
        assert_eq!(ask(&gateway, &peer).await, granted(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_kind() {
    let other = Peer::new(NAME, 8).public_key();
    let with_key = |id: &'static str, entry: Value| -> Change {
        Box::new(move |world, peer| {
            let answer = changed(world, peer, |it| it["verify_keys"][id] = entry.clone());
            answer.to_string().into_bytes()
        })
    };
    let rows: Vec<(&str, Change)> = vec![
        ("a second key that is none", with_key("ed25519:x", json!({ "key": "AAAA" }))),
        ("a second key that is no object", with_key("ed25519:x", json!("AAAA"))),
        ("a second key that has not signed", with_key("ed25519:x", json!({ "key": other }))),
        ("a key of another algorithm", with_key("rsa:x", json!(1))),
        (
            "a key in URL-safe base64, with padding",
            Box::new(|world, peer| {
                let key = json!(format!("{}=", url_safe(&peer.public_key())));
                let answer =
                    changed(world, peer, |it| it["verify_keys"][&peer.key_id]["key"] = key);
                answer.to_string().into_bytes()
            }),
        ),
        (
            "a key with other trailing bits",
            Box::new(|world, peer| {
                let key = json!(with_trailing_bits(&peer.public_key()));
                let answer =
                    changed(world, peer, |it| it["verify_keys"][&peer.key_id]["key"] = key);
                answer.to_string().into_bytes()
            }),
        ),
        (
            "a signature in URL-safe base64",
            Box::new(|world, peer| {
                let mut answer = changed(world, peer, |_| {});
                let signature = &mut answer["signatures"][NAME][&peer.key_id];
                *signature = json!(url_safe(signature.as_str().unwrap()));
                answer.to_string().into_bytes()
            }),
        ),
        (
            "a signature with other trailing bits",
            Box::new(|world, peer| {
                let mut answer = changed(world, peer, |_| {});
                let signature = &mut answer["signatures"][NAME][&peer.key_id];
                *signature = json!(with_trailing_bits(signature.as_str().unwrap()));
                answer.to_string().into_bytes()
            }),
        ),
        (
            "a float in `unsigned`",
            Box::new(|world, peer| {
                let mut answer = changed(world, peer, |_| {});
                answer["unsigned"] = json!({ "age": 0.5 });
                answer.to_string().into_bytes()
            }),
        ),
        (
            "a number that is not canonical, as Python writes it",
            Box::new(|world, peer| {
                let mut answer = peer.key_answer_until(world.now() + 60_000);
                answer.as_object_mut().unwrap().remove("signatures");
                // `x` is the last member.
                let signed = answer.to_string().replacen('}', "},\"x\":1e+22}", 0);
                let signed = format!("{},\"x\":1e+22}}", &signed[..signed.len() - 1]);
                let made = peer.key.sign(signed.as_bytes()).to_bytes();
                let made = STANDARD_NO_PAD.encode(made);
                let (id, sent) = (&peer.key_id, &signed[1..].replace("1e+22", "10.0e21"));
                format!(r#"{{"signatures":{{"{NAME}":{{"{id}":"{made}"}}}},{sent}"#).into_bytes()
            }),
        ),
        (
            "valid for ever",
            Box::new(|world, peer| {
                let answer = changed(world, peer, |it| it["valid_until_ts"] = json!(u64::MAX));
                answer.to_string().into_bytes()
            }),
        ),
        (
            "old keys that cannot be read",
            Box::new(|world, peer| {
                let old = json!({ "ed25519:o": { "key": "?" } });
                let answer = changed(world, peer, |it| it["old_verify_keys"] = old);
                answer.to_string().into_bytes()
            }),
        ),
    ];
    for (what, change) in rows {
        let world = World::new().await;
        let peer = Peer::new(NAME, 7);
        let answer = change(&world, &peer);
        let gateway = gateway(&world, &peer, answer).await;
        assert_eq!(ask(&gateway, &peer).await, granted(), "{what}");
        let user_agent = world.seen()[0].user_agent.clone().unwrap();
        assert!(user_agent.starts_with("Backscroll/"), "{user_agent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_requests_in_every_form() {
    let world = World::new().await;
    let peer = Peer::new(NAME, 7);
    let answer = peer.key_answer_until(world.now() + 60_000).to_string();
    let gateway = gateway(&world, &peer, answer.into_bytes()).await;
    let sig = peer.sig("GET", TARGET, None);
    for form in [
        format!("{sig}=="),
        url_safe(&sig),
        format!("{}==", url_safe(&sig)),
        with_trailing_bits(&sig),
    ] {
        let ask = Ask::new("GET", TARGET).authorization(peer.header(&form));
        assert_eq!(gateway.send(ask).await.status, 200, "{form}");
    }
}

/// A response without a length ends with its connection, with or without a TLS `close_notify`. A truncated
/// one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_end_with_the_connection() {
    for says_so in [true, false] {
        for (cut, length, expected) in
            [(0, None, granted()), (1, None, refused()), (0, Some(70_000), refused())]
        {
            let world = World::new().await;
            let peer = Peer::new(NAME, 7);
            let body = peer.key_answer_until(world.now() + 60_000).to_string();
            let body = &body[..body.len() - cut];
            let length = length.map_or_else(String::new, |it| format!("Content-Length: {it}\r\n"));
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{length}\r\n{body}");
            world.dns.address("h.example", "5.1.1.1");
            world.raw_site(AT, "h.example", answer.into_bytes(), says_so).await;
            let gateway = world.gateway(&[]).await;
            assert_eq!(ask(&gateway, &peer).await, expected, "{says_so} {cut} {length}");
        }
    }
}

/// A signature by a key whose private half is public knowledge is refused, even beside a valid one.
#[tokio::test(flavor = "multi_thread")]
async fn keys_whose_private_half_is_public() {
    let known = json!({ "key": "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og" });
    let world = World::new().await;
    let peer = Peer::new(NAME, 7);
    let answer = changed(&world, &peer, |it| it["verify_keys"]["ed25519:known"] = known);
    let gateway = gateway(&world, &peer, answer.to_string().into_bytes()).await;
    assert_eq!(ask(&gateway, &peer).await, granted());
    let by_known = Peer { key_id: "ed25519:known".to_owned(), ..peer.clone() };
    let sig = peer.sig("GET", TARGET, None);
    for headers in [vec![by_known.header(&sig)], vec![peer.header(&sig), by_known.header(&sig)]] {
        let ask = headers.iter().fold(Ask::new("GET", TARGET), Ask::authorization);
        let answer = gateway.send(ask).await;
        assert_eq!(answer.refusal(), refused());
        assert!(answer.json()["error"].as_str().unwrap().contains("GHSA-qwcj-h6m8-vp6q"));
    }
}
