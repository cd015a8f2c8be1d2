//! The real gateway beside a homeserver, with the real history service and a feeder: who answers.

use std::{net::SocketAddr, time::Duration};

use backscroll::proto::v1 as pb;
use backscroll_gateway::{
    fallback::FallbackOptions, keys::PinnedKeys, server::Options as GatewayOptions,
};
use backscroll_testkit::{Federation, FederationRequest, signing::Signer};
use ed25519_dalek::SigningKey;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    feeder::{Feed, ended},
    support::failures::{Stage, unknown_room},
};

/// What the homeserver answers to everything.
const HOMESERVER: &[u8] = br#"{"pdus":["of the homeserver"]}"#;

/// Answers every request, and closes the connection.
async fn homeserver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            let length = HOMESERVER.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(&[answer.as_bytes(), HOMESERVER].concat()).await.unwrap();
        }
    });
    address
}

/// A gateway of one.example before a history service.
struct Beside {
    stage: Stage,
    gateway: SocketAddr,
    federation: Federation,
}

impl Beside {
    async fn start() -> Self {
        let stage = Stage::start().await;
        let signers = [("two.example", 2), ("three.example", 3)].map(|(name, seed)| Signer {
            server_name: name.to_owned(),
            key_id: "ed25519:1".to_owned(),
            key: SigningKey::from_bytes(&[seed; 32]),
        });
        let keys = json!({
            "two.example": signers[0].key_answer(),
            "three.example": signers[1].key_answer(),
        });
        let url = format!("http://{}", homeserver().await);
        let fallback = FallbackOptions {
            first_of_origin: false,
            max_lag: Duration::from_secs(60),
            max_wait: Duration::from_millis(300),
            ..FallbackOptions::from(url.parse::<axum::http::Uri>().unwrap())
        };
        let history = stage.service.url().parse().unwrap();
        let options = GatewayOptions {
            keys: PinnedKeys::from_json(keys.to_string().as_bytes()).unwrap(),
            fallback: Some(fallback),
            ..GatewayOptions::new("one.example".parse().unwrap(), history)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let serving = backscroll_gateway::server::serve(listener, options, std::future::pending());
        tokio::spawn(async { serving.await.unwrap() });
        Self { stage, gateway, federation: Federation::new(signers) }
    }

    /// Asks for one event on behalf of a server. Returns the status, and who has answered.
    async fn ask(&self, origin: &str, room_id: &str, event_id: &str) -> (u16, String) {
        let uri = format!("/_matrix/federation/v1/backfill/{room_id}?v={event_id}&limit=1");
        let request = FederationRequest {
            origin,
            destination: "one.example",
            method: "GET",
            uri: &uri,
            content: None,
        };
        let answer = self.federation.send(self.gateway, request).await;
        let by = answer.headers.get("x-backscroll").map(|it| it.to_str().unwrap());
        // A 403 does not tell who has answered. Of the homeserver there is none here.
        assert_eq!(by.is_none(), answer.status == 403);
        let by = by.unwrap_or("history").to_owned();
        assert_eq!(by != "history", answer.body == HOMESERVER, "{by}");
        (answer.status.as_u16(), by)
    }

    async fn set_served(&self, reason: pb::NotServedReason) {
        let request = pb::SetRoomsServedRequest {
            room_ids: vec![self.stage.room_id()],
            not_served_reason: reason.into(),
        };
        self.stage.clients.ingest.clone().set_rooms_served(request).await.unwrap();
    }
}

fn by_homeserver(reason: &str) -> (u16, String) {
    (200, format!("synapse;reason={reason}"))
}

fn by_history(status: u16) -> (u16, String) {
    (status, "history".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_of_the_history_service_leads_to_the_homeserver() {
    let beside = Beside::start().await;
    let (room_id, last) = (beside.stage.room_id(), beside.stage.last());
    let two = async || beside.ask("two.example", &room_id, &last).await;
    assert_eq!(two().await, by_homeserver("feeder_away"));
    let mut feed = Feed::start(&beside.stage).await.unwrap();
    feed.tick(&beside.stage, false).await;
    assert_eq!(two().await, by_homeserver("feeder_not_ready"));
    feed.tick(&beside.stage, true).await;
    assert_eq!(two().await, by_history(200));
    // No tick comes: negative answers are not final.
    assert_eq!(
        beside.ask("two.example", &unknown_room(), &last).await,
        by_homeserver("room_not_held")
    );
    assert_eq!(beside.ask("three.example", &room_id, &last).await, by_homeserver("not_final"));
    assert_eq!(beside.ask("two.example", &room_id, "$unknown").await, by_homeserver("not_final"));

    beside.set_served(pb::NotServedReason::PartialState).await;
    assert_eq!(two().await, by_homeserver("room_not_served"));
    beside.set_served(pb::NotServedReason::Unspecified).await;
    assert_eq!(two().await, by_history(200));
}

/// With a feeder that goes on, the history service gives negative answers itself.
#[tokio::test(flavor = "multi_thread")]
async fn negative_answers_become_final() {
    let beside = Beside::start().await;
    let mut feed = Feed::start(&beside.stage).await.unwrap();
    feed.tick(&beside.stage, true).await;
    let ticking = tokio::spawn(async move {
        loop {
            feed.begin_tick().await;
            feed.send(ended(true)).await;
        }
    });
    let (room_id, last) = (beside.stage.room_id(), beside.stage.last());
    for _ in 0..10 {
        assert_eq!(beside.ask("three.example", &room_id, &last).await, by_history(403));
        assert_eq!(beside.ask("two.example", &room_id, "$unknown").await, by_history(200));
        // What is not held, only the homeserver knows.
        let unknown = beside.ask("two.example", &unknown_room(), &last).await;
        assert_eq!(unknown, by_homeserver("room_not_held"));
    }
    ticking.abort();
}
