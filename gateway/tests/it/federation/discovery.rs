//! Server discovery: the address that the gateway connects to, the `Host` header, and the name in the
//! certificate. <https://spec.matrix.org/v1.16/server-server-api/#resolving-server-names>

use std::time::Duration;

use backscroll_gateway::keys::FetchOptions;

use super::world::{KEYS, Reply, Set as _, WELL_KNOWN, World, ask, granted, refused};
use crate::support::peer::Peer;

/// What the world of a row contains besides the server.
enum Has {
    Address(&'static str, &'static str),
    Srv(&'static str, &'static str, u16),
    WellKnown(&'static str),
}
use Has::{Address, Srv, WellKnown};

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_table() {
    let h = "h.example";
    for (name, has, at, host, sni) in [
        ("5.1.1.1", &[][..], "5.1.1.1:8448", "5.1.1.1", None),
        ("5.1.1.1:99", &[], "5.1.1.1:99", "5.1.1.1:99", None),
        ("[2a00::1]", &[], "[2a00::1]:8448", "[2a00::1]", None),
        ("[2a00::1]:99", &[], "[2a00::1]:99", "[2a00::1]:99", None),
        ("h.example:99", &[Address(h, "5.1.1.1")], "5.1.1.1:99", "h.example:99", Some(h)),
        // A port needs no well-known file.
        (
            "h.example:99",
            &[Address(h, "5.1.1.1"), WellKnown("d.example")],
            "5.1.1.1:99",
            "h.example:99",
            Some(h),
        ),
        (h, &[WellKnown("5.2.2.2")], "5.2.2.2:8448", "5.2.2.2", None),
        (h, &[WellKnown("[2a00::2]:99")], "[2a00::2]:99", "[2a00::2]:99", None),
        (
            h,
            &[WellKnown("d.example:99"), Address("d.example", "5.2.2.2")],
            "5.2.2.2:99",
            "d.example:99",
            Some("d.example"),
        ),
        (
            h,
            &[
                WellKnown("d.example"),
                Srv("_matrix-fed._tcp.d.example", "t.example", 77),
                Srv("_matrix._tcp.d.example", "old.example", 78),
                Address("t.example", "5.3.3.3"),
            ],
            "5.3.3.3:77",
            "d.example",
            Some("d.example"),
        ),
        (
            h,
            &[
                WellKnown("d.example"),
                Srv("_matrix._tcp.d.example", "t.example", 77),
                Address("t.example", "2a00::3"),
            ],
            "[2a00::3]:77",
            "d.example",
            Some("d.example"),
        ),
        (
            h,
            &[WellKnown("d.example"), Address("d.example", "5.2.2.2")],
            "5.2.2.2:8448",
            "d.example",
            Some("d.example"),
        ),
        (
            h,
            &[
                Srv("_matrix-fed._tcp.h.example", "t.example", 77),
                Srv("_matrix._tcp.h.example", "old.example", 78),
                Address("t.example", "5.3.3.3"),
            ],
            "5.3.3.3:77",
            h,
            Some(h),
        ),
        (
            h,
            &[Srv("_matrix._tcp.h.example", "t.example", 77), Address("t.example", "5.3.3.3")],
            "5.3.3.3:77",
            h,
            Some(h),
        ),
        (h, &[Address(h, "5.1.1.1")], "5.1.1.1:8448", h, Some(h)),
        // Invalid files are ignored.
        (h, &[WellKnown("not a name"), Address(h, "5.1.1.1")], "5.1.1.1:8448", h, Some(h)),
    ] {
        let world = World::new().await;
        let peer = Peer::new(name, 7);
        let bare = at.rsplit_once(':').unwrap().0.trim_start_matches('[').trim_end_matches(']');
        let site = world.site(at, sni.unwrap_or(bare)).await;
        world.publish(&site, &peer);
        for it in has {
            match *it {
                Address(name, address) => world.dns.address(name, address),
                Srv(name, target, port) => world.dns.srv(name, 1, target, port),
                WellKnown(server) => {
                    let well_known = world.site("5.9.9.9:443", h).await;
                    well_known.set(WELL_KNOWN, Reply::well_known(server));
                    world.dns.address(h, "5.9.9.9");
                }
            }
        }
        let gateway = world.gateway(&[]).await;

        assert_eq!(ask(&gateway, &peer).await, granted(), "{name} at {at}");
        let seen = world.seen();
        let asked = seen.iter().find(|seen| seen.target == KEYS).unwrap();
        let asked = (asked.at.as_str(), asked.host.as_str(), asked.sni.as_deref());
        assert_eq!(asked, (at, host, sni), "{name} at {at}");
        let well_known = seen.iter().find(|seen| seen.target == WELL_KNOWN);
        assert_eq!(
            well_known.is_some(),
            name == h && has.iter().any(|it| matches!(it, WellKnown(_)))
        );
        if let Some(asked) = well_known {
            assert_eq!((asked.host.as_str(), asked.sni.as_deref()), (h, Some(h)));
        }
    }
}

/// Targets are tried in the order of priorities, until one answers.
#[tokio::test(flavor = "multi_thread")]
async fn service_records_are_tried_in_turn() {
    let world = World::new().await;
    let peer = Peer::new("h.example", 7);
    let service = "_matrix-fed._tcp.h.example";
    world.dns.srv(service, 30, "third.example", 3);
    world.dns.srv(service, 10, "first.example", 1);
    world.dns.srv(service, 20, "second.example", 2);
    for name in ["first.example", "second.example", "third.example"] {
        world.dns.address(name, "5.3.3.3");
    }
    let site = world.site("5.3.3.3:2", "h.example").await;
    world.publish(&site, &peer);
    assert_eq!(ask(&world.gateway(&[]).await, &peer).await, granted());
    assert_eq!(world.dialled(), ["5.3.3.3:1", "5.3.3.3:2"]);
}

/// The certificate must be for the requested name, not for the target.
#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_refused() {
    for (name, certified) in [
        ("h.example", "t.example"),
        ("h.example:77", "t.example"),
        ("5.1.1.1", "5.1.1.2"),
        ("5.1.1.1:77", "h.example"),
    ] {
        let world = World::new().await;
        let peer = Peer::new(name, 7);
        world.dns.address("h.example", "5.1.1.1");
        for at in ["5.1.1.1:8448", "5.1.1.1:77"] {
            world.publish(&world.site(at, certified).await, &peer);
        }
        assert_eq!(ask(&world.gateway(&[]).await, &peer).await, refused(), "{name}");
        let dialled = world.dialled();
        assert!(dialled.iter().any(|it| it.ends_with(":8448") || it.ends_with(":77")), "{name}");
        assert_eq!(world.key_questions(), 0);
    }
}

/// No well-known file or name makes the gateway connect to an internal address.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_inside() {
    for (well_known, dialled) in [
        (Some(Reply::redirect("https://127.0.0.1/x")), &["5.9.9.9:443"][..]),
        (Some(Reply::redirect("https://inside.example/x")), &["5.9.9.9:443"]),
        (Some(Reply::redirect("https://[::ffff:10.0.0.1]/x")), &["5.9.9.9:443"]),
        (Some(Reply::redirect("http://5.9.9.9/x")), &["5.9.9.9:443"]),
        (Some(Reply::well_known("10.0.0.1:99")), &["5.9.9.9:443"]),
        (Some(Reply::well_known("[64:ff9b::a00:1]")), &["5.9.9.9:443"]),
        (Some(Reply::well_known("inside.example")), &["5.9.9.9:443"]),
        (None, &["5.9.9.9:443"]),
    ] {
        let world = World::new().await;
        let peer = Peer::new("h.example", 7);
        world.dns.address("h.example", "5.9.9.9");
        world.dns.address("inside.example", "192.168.1.1");
        world.dns.srv("_matrix-fed._tcp.h.example", 1, "inside.example", 99);
        let site = world.site("5.9.9.9:443", "h.example").await;
        if let Some(reply) = well_known {
            site.set(WELL_KNOWN, reply);
        }
        assert_eq!(ask(&world.gateway(&[]).await, &peer).await, refused());
        assert_eq!(world.dialled(), dialled);
    }
    for name in ["127.0.0.1:99", "[::1]:99", "169.254.169.254", "[fd00::1]:99", "0.0.0.0:99"] {
        let world = World::new().await;
        assert_eq!(ask(&world.gateway(&[]).await, &Peer::new(name, 7)).await, refused(), "{name}");
        assert!(world.dialled().is_empty(), "{name}");
    }
}

/// Except for ranges that the operator allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_range_can_be_allowed() {
    let world = World::new().await;
    let peer = Peer::new("10.0.0.1:99", 7);
    world.publish(&world.site("10.0.0.1:99", "10.0.0.1").await, &peer);
    let mut network = world.network();
    network.allow("10.0.0.0/24".parse().unwrap());
    let gateway = world.gateway_with(FetchOptions { network, notaries: Vec::new() }).await;
    assert_eq!(ask(&gateway, &peer).await, granted());
    assert_eq!(ask(&gateway, &Peer::new("10.0.1.1:99", 7)).await, refused());
    assert_eq!(world.dialled(), ["10.0.0.1:99"]);
}

/// An invalid well-known file is ignored, and the server's own records are used.
#[tokio::test(flavor = "multi_thread")]
async fn useless_well_known_files() {
    let large = format!(r#"{{"m.server":"d.example","x":"{}"}}"#, "x".repeat(51_200));
    let held = Reply {
        hold: Some(std::sync::Arc::new(tokio::sync::Semaphore::new(0))),
        ..Reply::well_known("d.example")
    };
    for (what, reply, questions) in [
        ("too large", Reply { status: 200, body: large.into_bytes(), ..Reply::default() }, 1),
        ("a loop", Reply::redirect("https://h.example/.well-known/matrix/server"), 6),
        ("slow", held, 1),
        ("not JSON", Reply { status: 200, body: b"<html>".to_vec(), ..Reply::default() }, 1),
        ("another status", Reply { status: 500, ..Reply::well_known("d.example") }, 1),
        ("nowhere", Reply { status: 302, ..Reply::default() }, 1),
        ("without the member", Reply::json(&serde_json::json!({ "server": "d.example" })), 1),
    ] {
        let world = World::new().await;
        let peer = Peer::new("h.example", 7);
        world.dns.address("h.example", "5.9.9.9");
        world.site("5.9.9.9:443", "h.example").await.set(WELL_KNOWN, reply);
        world.publish(&world.site("5.9.9.9:8448", "h.example").await, &peer);
        let mut network = world.network();
        network.timeout = Duration::from_secs(3);
        let gateway = world.gateway_with(FetchOptions { network, notaries: Vec::new() }).await;
        assert_eq!(ask(&gateway, &peer).await, granted(), "{what}");
        let seen = world.seen();
        let asked = seen.iter().filter(|seen| seen.target == WELL_KNOWN).count();
        assert_eq!(asked, questions, "{what}");
    }
}

/// Up to five redirects to other hosts are followed.
#[tokio::test(flavor = "multi_thread")]
async fn well_known_files_may_be_elsewhere() {
    for (redirects, found) in [(1, true), (5, true), (6, false)] {
        let world = World::new().await;
        let peer = Peer::new("h.example", 7);
        let mut site = world.site("5.9.9.9:443", "h.example").await;
        world.dns.address("h.example", "5.9.9.9");
        let mut path = WELL_KNOWN.to_owned();
        for n in 1..=redirects {
            site.set(&path, Reply::redirect(&format!("https://r{n}.example:44{n}/file?{n}")));
            world.dns.address(&format!("r{n}.example"), "5.8.8.8");
            site = world.site(&format!("5.8.8.8:44{n}"), &format!("r{n}.example")).await;
            path = format!("/file?{n}");
        }
        site.set(&path, Reply::well_known("5.2.2.2"));
        world.publish(&world.site("5.2.2.2:8448", "5.2.2.2").await, &peer);
        let answer = ask(&world.gateway(&[]).await, &peer).await;
        assert_eq!(answer, if found { granted() } else { refused() }, "{redirects}");
        let seen = world.seen();
        let first = seen.iter().find(|seen| seen.target == "/file?1").unwrap();
        assert_eq!(
            (first.host.as_str(), first.sni.as_deref()),
            ("r1.example:441", Some("r1.example"))
        );
    }
}
