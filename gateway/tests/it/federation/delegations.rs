//! Delegations: to which server, and for how long.

use std::time::Duration;

use super::world::{Reply, Set as _, WELL_KNOWN, World, ask, granted};
use crate::support::peer::Peer;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// The hosts whose well-known files were requested since the last call.
fn asked(world: &World) -> Vec<String> {
    let seen = world.seen().into_iter().filter(|it| it.target == WELL_KNOWN);
    seen.map(|it| it.host).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_remembered_for_as_long_as_the_answer_says() {
    for (cache_control, lifetime) in [
        (None, 24 * HOUR),
        (Some("max-age=1"), 5 * MINUTE),
        (Some("max-age=1800"), 30 * MINUTE),
        (Some("no-store"), 5 * MINUTE),
        (Some("max-age=9999999"), 48 * HOUR),
    ] {
        let world = World::new().await;
        world.dns.address("h.example", "5.9.9.9");
        let well_known = world.site("5.9.9.9:443", "h.example").await;
        let headers = cache_control.map(|it| ("cache-control", it.to_owned()));
        let headers = headers.into_iter().collect();
        well_known.set(WELL_KNOWN, Reply { headers, ..Reply::well_known("5.2.2.2") });
        let site = world.site("5.2.2.2:8448", "5.2.2.2").await;
        let gateway = world.gateway(&[]).await;
        // A new key each time, so that keys must be fetched.
        for (nth, passes, expected) in [
            (1, Duration::ZERO, &["h.example"][..]),
            (2, lifetime - Duration::from_millis(1), &[]),
            (3, MINUTE, &["h.example"]),
        ] {
            world.pass(passes);
            let peer = Peer::new("h.example", nth);
            world.publish(&site, &peer);
            assert_eq!(ask(&gateway, &peer).await, granted(), "{cache_control:?} {nth}");
            assert_eq!(asked(&world), expected, "{cache_control:?} {nth}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_remembered_for_a_minute_at_most() {
    let world = World::new().await;
    world.dns.address("h.example", "5.9.9.9");
    world.site("5.9.9.9:443", "h.example").await.set(WELL_KNOWN, Reply::default());
    let site = world.site("5.9.9.9:8448", "h.example").await;
    let gateway = world.gateway(&[]).await;
    let mut nth = 0;
    let mut after = async |passes| {
        world.pass(passes);
        nth += 1;
        let peer = Peer::new("h.example", nth);
        world.publish(&site, &peer);
        assert_eq!(ask(&gateway, &peer).await, granted(), "{nth}");
        asked(&world).len()
    };
    assert_eq!(after(Duration::ZERO).await, 1);
    let least = Duration::from_secs(5);
    assert_eq!(after(least).await, 1);
    for seconds in [10, 20, 40, 60, 60] {
        assert_eq!(after(Duration::from_secs(seconds) - least).await, 0, "{seconds}");
        assert_eq!(after(least).await, 1, "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_host_delegates_to_is_not_asked_where_it_delegates_to() {
    let world = World::new().await;
    let peer = Peer::new("h.example", 7);
    world.dns.address("h.example", "5.9.9.9");
    world.dns.address("d.example", "5.2.2.2");
    let to =
        async |at, of, server| world.site(at, of).await.set(WELL_KNOWN, Reply::well_known(server));
    to("5.9.9.9:443", "h.example", "d.example").await;
    to("5.2.2.2:443", "d.example", "5.3.3.3").await;
    world.publish(&world.site("5.2.2.2:8448", "d.example").await, &peer);
    assert_eq!(ask(&world.gateway(&[]).await, &peer).await, granted());
    assert_eq!(asked(&world), ["h.example"]);
}

/// A CNAME is followed by DNS only: `Host` and certificate are for the first name.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_stand_for_others() {
    for (name, delegated, at, host) in [
        ("alias.example:99", None, "5.1.1.1:99", "alias.example:99"),
        ("alias.example", None, "5.1.1.1:8448", "alias.example"),
        ("h.example", Some("alias.example:99"), "5.1.1.1:99", "alias.example:99"),
        ("h.example", Some("alias.example"), "5.1.1.1:8448", "alias.example"),
    ] {
        let world = World::new().await;
        let peer = Peer::new(name, 7);
        world.dns.alias("alias.example", "real.example");
        world.dns.address("real.example", "5.1.1.1");
        if let Some(server) = delegated {
            world.dns.address("h.example", "5.9.9.9");
            let well_known = world.site("5.9.9.9:443", "h.example").await;
            well_known.set(WELL_KNOWN, Reply::well_known(server));
        }
        world.publish(&world.site(at, "alias.example").await, &peer);
        assert_eq!(ask(&world.gateway(&[]).await, &peer).await, granted(), "{name}");
        let seen = world.seen();
        let last = seen.last().unwrap();
        assert_eq!(
            (&*last.at, &*last.host, last.sni.as_deref()),
            (at, host, Some("alias.example"))
        );
    }
    // RFC 2782 forbids an alias as the target of an SRV record. Other homeservers follow it, and so does the
    // gateway: the certificate proves whose server it is.
    let world = World::new().await;
    let peer = Peer::new("h.example", 7);
    world.dns.srv("_matrix-fed._tcp.h.example", 1, "alias.example", 99);
    world.dns.alias("alias.example", "real.example");
    world.dns.address("real.example", "5.1.1.1");
    world.publish(&world.site("5.1.1.1:99", "h.example").await, &peer);
    assert_eq!(ask(&world.gateway(&[]).await, &peer).await, granted());
    // An alias to an internal address is denied too.
    let world = World::new().await;
    world.dns.alias("h.example", "inside.example");
    world.dns.address("inside.example", "10.0.0.1");
    let answer = ask(&world.gateway(&[]).await, &Peer::new("h.example", 7)).await;
    assert_eq!(answer, super::world::refused());
    assert!(world.dialled().is_empty());
}
