//! Which fetched keys are used, for how long, and how often a server is asked for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backscroll_gateway::{clock::Clock, keys::FetchOptions};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::world::{KEYS, Replies, Reply, Set as _, World, ask, ask_from, granted, refused};
use crate::support::{Stage, peer::Peer, until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
const AT: &str = "5.1.1.1:99";

/// Changes the answer of a server.
type Change<'a> = Box<dyn Fn(&Value) -> Value + 'a>;
/// A server with published keys, and a gateway that does not know it.
async fn scene() -> (World, Peer, Replies, Stage) {
    let world = World::new().await;
    let peer = Peer::new("h.example:99", 7);
    let site = world.server(&peer, AT).await;
    let gateway = world.gateway(&[]).await;
    (world, peer, site, gateway)
}

/// The same, behind a proxy that names the client's address.
async fn scene_of_many() -> (World, Peer, Replies, Stage) {
    let world = World::new().await;
    let peer = Peer::new("h.example:99", 7);
    let site = world.server(&peer, AT).await;
    let gateway = world.gateway_behind_a_proxy().await;
    (world, peer, site, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_and_kept() {
    let (world, peer, _site, gateway) = scene().await;
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 1);
    // Expired keys are not used.
    world.pass(Duration::from_hours(1));
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 0);
    world.pass(Duration::from_millis(1));
    assert_eq!(ask(&gateway, &peer).await, refused());
    assert_eq!(world.key_questions(), 1);
}

/// Answers of a server that are refused, and one that is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_taken() {
    let peer = Peer::new("h.example:99", 7);
    let other = Peer::new("h.example:99", 8);
    let answer = |world: &World| peer.key_answer_until(world.now() + 1_000);
    let resigned = |answer: &Value, change: &dyn Fn(&mut Value)| {
        let mut answer = answer.clone();
        change(&mut answer);
        answer.as_object_mut().unwrap().remove("signatures");
        peer.sign(answer)
    };
    let rows: Vec<(&str, Change<'_>, (u16, String))> = vec![
        ("as it is", Box::new(Value::clone), granted()),
        ("expired", Box::new(|_| peer.key_answer_until(1)), refused()),
        (
            "another server's",
            Box::new(|it| resigned(it, &|it| it["server_name"] = json!("x.example:99"))),
            refused(),
        ),
        (
            "without a port",
            Box::new(|it| resigned(it, &|it| it["server_name"] = json!("h.example"))),
            refused(),
        ),
        (
            "signed by another key",
            Box::new(|it| {
                let mut it = it.clone();
                it["signatures"] =
                    json!({ "h.example:99": { "ed25519:k7": other.signature(&it) } });
                it
            }),
            refused(),
        ),
        (
            "signed by another server only",
            Box::new(|it| {
                let mut it = it.clone();
                it["signatures"] = json!({ "x.example": it["signatures"]["h.example:99"] });
                it
            }),
            refused(),
        ),
        (
            "changed after it was signed",
            Box::new(|it| {
                let mut it = it.clone();
                it["valid_until_ts"] = json!(it["valid_until_ts"].as_u64().unwrap() + 1);
                it
            }),
            refused(),
        ),
        (
            "the key of another id",
            Box::new(|it| {
                let other = Peer { key_id: "ed25519:x".to_owned(), ..peer.clone() };
                let mut it = it.clone();
                it["verify_keys"] = json!({ "ed25519:x": { "key": other.public_key() } });
                it.as_object_mut().unwrap().remove("signatures");
                other.sign(it)
            }),
            refused(),
        ),
        (
            "the key among the old ones",
            Box::new(|it| {
                let mut it = it.clone();
                it["old_verify_keys"] = json!({ "ed25519:k7": { "key": peer.public_key(), "expired_ts": 9_000_000_000_000_u64 } });
                it["verify_keys"] = json!({ "ed25519:k8": { "key": other.public_key() } });
                it.as_object_mut().unwrap().remove("signatures");
                other.sign(peer.sign(it))
            }),
            refused(),
        ),
        ("no object", Box::new(|_| json!([])), refused()),
    ];
    for (what, change, expected) in rows {
        let world = World::new().await;
        let site = world.server(&peer, AT).await;
        site.set(KEYS, Reply::json(&change(&answer(&world))));
        let gateway = world.gateway(&[]).await;
        assert_eq!(ask(&gateway, &peer).await, expected, "{what}");
        assert_eq!(world.key_questions(), 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_answers() {
    for (what, reply) in [
        ("redirected", Reply::redirect("https://h.example:99/keys")),
        ("too large", Reply { status: 200, body: vec![b' '; 70_000], ..Reply::default() }),
        ("a float", Reply { status: 200, body: br#"{"a":0.5}"#.to_vec(), ..Reply::default() }),
        ("an error", Reply { status: 500, ..Reply::default() }),
    ] {
        let (world, peer, site, gateway) = scene().await;
        let keys = site.lock().unwrap()[KEYS].clone();
        site.set("/keys", keys);
        site.set(KEYS, reply);
        assert_eq!(ask(&gateway, &peer).await, refused(), "{what}");
        assert_eq!(world.seen().len(), 1, "{what}");
    }
}

/// Keys are used for a week at most, whatever the server says.
#[tokio::test(flavor = "multi_thread")]
async fn a_week_at_most() {
    let (world, peer, site, gateway) = scene().await;
    let until = world.now() + 1_000 * 86_400_000;
    site.set(KEYS, Reply::json(&peer.key_answer_until(until)));
    assert_eq!(ask(&gateway, &peer).await, granted());
    site.lock().unwrap().clear();
    world.pass(7 * DAY);
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(ask(&gateway, &peer).await, refused());
}

/// For an unknown key the server is asked again, at most once in five seconds. A key that is no longer listed
/// is not used.
#[tokio::test(flavor = "multi_thread")]
async fn rotated_keys() {
    let (world, old, site, gateway) = scene().await;
    assert_eq!(ask(&gateway, &old).await, granted());
    let new = Peer::new("h.example:99", 8);
    world.publish(&site, &new);
    assert_eq!(ask(&gateway, &new).await, refused());
    assert_eq!(world.key_questions(), 1);
    world.pass(SECOND * 5);
    assert_eq!(ask(&gateway, &new).await, granted());
    assert_eq!(ask(&gateway, &old).await, refused());
    assert_eq!(world.key_questions(), 1);
    // While the server does not answer, its last answer is used.
    site.lock().unwrap().clear();
    world.pass(MINUTE);
    assert_eq!(ask(&gateway, &old).await, refused());
    assert_eq!(ask(&gateway, &new).await, granted());
    assert_eq!(world.key_questions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_share_one_fetch() {
    let (world, peer, site, gateway) = scene().await;
    let hold = Arc::new(Semaphore::new(0));
    let reply = Reply { hold: Some(Arc::clone(&hold)), ..site.lock().unwrap()[KEYS].clone() };
    site.set(KEYS, reply);
    let waiting = join_all((0..20).map(|_| ask(&gateway, &peer)));
    let releasing = async {
        let mut questions = 0;
        until("a question", async || {
            questions += world.key_questions();
            questions > 0
        })
        .await;
        hold.add_permits(100);
        questions
    };
    let (answers, questions) = tokio::join!(waiting, releasing);
    assert!(answers.iter().all(|answer| *answer == granted()), "{answers:?}");
    assert_eq!(questions + world.key_questions(), 1);
}

/// When the client disconnects, the fetch goes on and its answer is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_without_its_client() {
    let (world, peer, site, gateway) = scene().await;
    let hold = Arc::new(Semaphore::new(0));
    let reply = Reply { hold: Some(Arc::clone(&hold)), ..site.lock().unwrap()[KEYS].clone() };
    site.set(KEYS, reply);
    tokio::select! {
        _ = ask(&gateway, &peer) => panic!("nobody has answered"),
        () = until("a question", async || world.key_questions() == 1) => {}
    }
    hold.add_permits(1);
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 0);
}

/// A server that does not answer is asked again after 5 s, 10 s, 20 s, up to a minute.
#[tokio::test(flavor = "multi_thread")]
async fn failures_back_off() {
    let (world, peer, site, gateway) = scene().await;
    site.lock().unwrap().clear();
    assert_eq!(ask(&gateway, &peer).await, refused());
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert_eq!(world.key_questions(), 1, "{seconds}");
        world.pass(seconds * SECOND - Duration::from_millis(1));
        assert_eq!(ask(&gateway, &peer).await, refused());
        assert_eq!(world.key_questions(), 0, "{seconds}");
        world.pass(Duration::from_millis(1));
        assert_eq!(ask(&gateway, &peer).await, refused());
    }
    assert_eq!(world.key_questions(), 1);
    world.publish(&site, &peer);
    world.pass(MINUTE);
    assert_eq!(ask(&gateway, &peer).await, granted());
}

/// A client that names a server while it does not answer, or a key that it does not have, delays no other
/// client.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_one_client_do_not_affect_others() {
    let (world, peer, site, gateway) = scene_of_many().await;
    let (stranger, honest) = ("192.0.2.66", "192.0.2.1");
    let forged = Peer { key: Peer::new("", 66).key, ..peer.clone() };
    site.lock().unwrap().clear();
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert_eq!(ask_from(&gateway, &forged, stranger).await, refused());
        assert_eq!(world.key_questions(), 1, "{seconds}");
        world.pass(seconds * SECOND);
    }
    assert_eq!(ask_from(&gateway, &forged, stranger).await, refused());
    world.publish(&site, &peer);
    world.pass(5 * SECOND);
    assert_eq!(ask_from(&gateway, &forged, stranger).await, refused());
    assert_eq!(ask_from(&gateway, &peer, honest).await, granted());
    // The same for an unknown key, until the server has it.
    let unknown = Peer { key_id: "ed25519:none".to_owned(), ..forged };
    for _ in 0..4 {
        world.pass(5 * SECOND);
        assert_eq!(ask_from(&gateway, &unknown, stranger).await, refused());
    }
    let new = Peer::new("h.example:99", 8);
    world.publish(&site, &new);
    world.pass(5 * SECOND);
    assert_eq!(ask_from(&gateway, &unknown, stranger).await, refused());
    world.pass(5 * SECOND);
    assert_eq!(ask_from(&gateway, &new, honest).await, granted());
}

/// When the wall clock is set, forwards or backwards, no pause becomes longer, and keys are used for a week at
/// most.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_set() {
    let world = World::new().await;
    let peer = Peer::new("h.example:99", 7);
    let site = world.server(&peer, AT).await;
    let steady = Arc::new(AtomicU64::new(0));
    let pass = |seconds| steady.fetch_add(seconds, Ordering::Relaxed);
    let (wall, passed) = (Arc::clone(&world.now_ms), Arc::clone(&steady));
    let fetching = FetchOptions { network: world.network(), notaries: Vec::new() };
    let gateway = Stage::start_with(|options| {
        options.fetching = Some(fetching);
        options.clock = Clock::new(move || wall.load(Ordering::Relaxed))
            .with_steady(move || Duration::from_secs(passed.load(Ordering::Relaxed)));
    })
    .await;
    // In 2086 the server first does not answer, and then it does.
    let now = world.now_ms.swap(3_660_000_000_000, Ordering::Relaxed);
    site.lock().unwrap().clear();
    assert_eq!(ask(&gateway, &peer).await, refused());
    world.now_ms.store(now, Ordering::Relaxed);
    site.set(KEYS, Reply::json(&peer.key_answer_until(9_000_000_000_000)));
    pass(5);
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 2);
    // Back by a year: fetched keys are used for a week, and no longer.
    world.now_ms.store(now - 365 * 86_400_000, Ordering::Relaxed);
    pass(7 * 86_400);
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(world.key_questions(), 0);
    site.lock().unwrap().clear();
    pass(1);
    assert_eq!(ask(&gateway, &peer).await, refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_servers_are_never_asked() {
    let (world, _peer, _site, gateway) = scene().await;
    assert_eq!(ask(&gateway, &gateway.peer).await, granted());
    let rotated = Peer { key_id: "ed25519:new".to_owned(), ..gateway.peer.clone() };
    assert_eq!(ask(&gateway, &rotated).await, refused());
    // Pinned keys expire, too.
    world.pass(MINUTE);
    assert_eq!(ask(&gateway, &gateway.peer).await, refused());
    assert!(world.dialled().is_empty());
}

/// Keys that one gateway has fetched are read by others from the history service, for a week.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_service_remembers() {
    let (world, peer, site, first) = scene().await;
    assert_eq!(ask(&first, &peer).await, granted());
    until("keys in the history service", async || !first.history.keys().is_empty()).await;
    assert_eq!(world.key_questions(), 1);

    let second = world.gateway_beside(&first).await;
    assert_eq!(ask(&second, &peer).await, granted());
    assert_eq!(world.key_questions(), 0);
    // An unknown key is fetched at once.
    let new = Peer::new("h.example:99", 8);
    world.publish(&site, &new);
    assert_eq!(ask(&second, &new).await, granted());
    assert_eq!(world.key_questions(), 1);

    const WEEK_MS: u64 = 7 * 86_400_000;
    for (n, until_ms, age_ms, questions) in [
        (1, WEEK_MS, 0, 0),
        (2, 99 * WEEK_MS, 0, 0),
        (3, 99 * WEEK_MS, WEEK_MS, 0),
        (4, 99 * WEEK_MS, WEEK_MS + 1, 1),
        (5, 0, 0, 0),
        (6, u64::MAX, 0, 1),
    ] {
        let peer = Peer::new(&format!("h{n}.example:99"), 7);
        world.server(&peer, &format!("5.2.2.{n}:99")).await;
        let until_ms = world.now().wrapping_add(until_ms);
        let answer = peer.key_answer_until(until_ms);
        first.history.put_keys(&peer.name, answer, world.now() - age_ms);
        let gateway = world.gateway_beside(&first).await;
        assert_eq!(ask(&gateway, &peer).await, granted());
        assert_eq!(world.key_questions(), questions, "{until_ms}");
    }
}
