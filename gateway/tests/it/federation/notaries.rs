//! Notaries: which of their answers are used, and which notary is asked.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{KEYS, QUERY, Reply, Set as _, World, ask, granted, refused};
use crate::support::peer::Peer;

const MINUTE: Duration = Duration::from_mins(1);

/// Makes a notary's list of answers from the answer of a server.
type Listed<'a> = Box<dyn Fn(Value) -> Vec<Value> + 'a>;

/// A notary's answer for a server that does not answer must be signed by both.
#[tokio::test(flavor = "multi_thread")]
async fn notaries() {
    let peer = Peer::new("h.example:99", 7);
    let notary = Peer::new("n.example:99", 5);
    let stranger = Peer::new("n.example:99", 6);
    let rows: Vec<(&str, Listed<'_>, (u16, String))> = vec![
        ("signed by both", Box::new(|it: Value| vec![notary.sign(it)]), granted()),
        ("not by the notary", Box::new(|it| vec![it]), refused()),
        (
            "by another as the notary",
            Box::new(|it| {
                let stranger = Peer { key_id: notary.key_id.clone(), ..stranger.clone() };
                vec![stranger.sign(it)]
            }),
            refused(),
        ),
        (
            "by the notary alone",
            Box::new(|mut it| {
                it.as_object_mut().unwrap().remove("signatures");
                vec![notary.sign(it)]
            }),
            refused(),
        ),
        ("expired", Box::new(|_| vec![notary.sign(peer.key_answer_until(1))]), refused()),
        (
            "of another server",
            Box::new(|_| vec![notary.sign(Peer::new("x.example:99", 7).key_answer_until(1 << 50))]),
            refused(),
        ),
        (
            "of which one is of use",
            Box::new(|it| {
                let older = Peer::new("h.example:99", 9).key_answer_until(1 << 50);
                vec![it.clone(), notary.sign(older), json!(1), notary.sign(it)]
            }),
            granted(),
        ),
        ("nothing", Box::new(|_| Vec::new()), refused()),
    ];
    for (what, answers, expected) in rows {
        let world = World::new().await;
        let site = world.server(&notary, "5.5.5.5:99").await;
        let answer = peer.key_answer_until(world.now() + 60_000);
        site.set(QUERY, Reply::json(&json!({ "server_keys": answers(answer) })));
        let gateway = world.gateway(&["n.example:99"]).await;
        assert_eq!(ask(&gateway, &peer).await, expected, "{what}");
        let seen = world.seen();
        let asked = seen.iter().find(|seen| seen.target == QUERY).unwrap();
        let asked: Value = serde_json::from_slice(&asked.body).unwrap();
        let minimum = json!({ "minimum_valid_until_ts": world.now() });
        assert_eq!(asked, json!({ "server_keys": { "h.example:99": { "ed25519:k7": minimum } } }));
    }
}

/// The keys of a notary may be pinned. After the first useful answer no other notary is asked. A notary is
/// not asked about itself.
#[tokio::test(flavor = "multi_thread")]
async fn several_notaries() {
    let world = World::new().await;
    let peer = Peer::new("h.example:99", 7);
    // Its keys are pinned in every `Stage`.
    let pinned = Peer::new("peer.example:8448", 1);
    let notary = Peer::new("n.example:99", 5);
    let unpublished = world.server(&pinned, "5.4.4.4:8448").await;
    unpublished.lock().unwrap().clear();
    let site = world.server(&notary, "5.5.5.5:99").await;
    let gateway = world.gateway(&["away.example:99", "n.example:99", "peer.example:8448"]).await;
    site.set(QUERY, Reply::json(&json!({ "server_keys": [] })));
    let answer = pinned.sign(peer.key_answer_until(world.now() + 60_000));
    unpublished.set(QUERY, Reply::json(&json!({ "server_keys": [answer] })));
    assert_eq!(ask(&gateway, &peer).await, granted());
    let seen = world.seen();
    let asked: Vec<_> = seen.iter().map(|it| (it.at.as_str(), it.target.as_str())).collect();
    let expected = [("5.5.5.5:99", KEYS), ("5.5.5.5:99", QUERY), ("5.4.4.4:8448", QUERY)];
    assert_eq!(asked, expected);
    site.lock().unwrap().clear();
    let rotated = Peer { key_id: "ed25519:new".to_owned(), ..notary };
    world.pass(MINUTE);
    assert_eq!(ask(&gateway, &rotated).await, refused());
    let asked_itself = world.seen().iter().any(|it| it.at == "5.5.5.5:99" && it.target == QUERY);
    assert!(!asked_itself);
}
