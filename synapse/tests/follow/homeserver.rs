//! A homeserver that writes to the tables of Synapse as Synapse does, and nothing else.

use std::cell::Cell;

use backscroll_testkit::{
    postgres::Postgres,
    room::{Event, Room},
};
use tokio_postgres::Client;

const SCHEMA: &str = include_str!("schema.sql");

/// The homeserver.
pub(crate) struct Homeserver {
    /// A connection as the owner.
    pub(crate) client: Client,
    next: Cell<i64>,
}

/// How an event is stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stored {
    /// It is an outlier.
    pub(crate) outlier: bool,
    /// Synapse rejected it.
    pub(crate) rejected: bool,
    /// Synapse soft-failed it.
    pub(crate) soft_failed: bool,
    /// The state group after it.
    pub(crate) state_group: Option<i64>,
}

impl Homeserver {
    /// Makes the database `synapse`, and the role `reader` that may read it.
    pub(crate) async fn start(postgres: &Postgres) -> Self {
        let client = postgres.connect("postgres").await;
        client.batch_execute("create database synapse").await.unwrap();
        let client = postgres.connect("synapse").await;
        client.batch_execute(SCHEMA).await.unwrap();
        let reader = "create role reader login; grant usage on schema public to reader; \
                      grant select on all tables in schema public to reader";
        client.batch_execute(reader).await.unwrap();
        Self { client, next: Cell::new(1) }
    }

    /// Connects again after the server has crashed.
    pub(crate) async fn reconnect(&mut self, postgres: &Postgres) {
        self.client = postgres.connect("synapse").await;
    }

    /// Adds a room.
    pub(crate) async fn room(&self, room: &Room) {
        let (room_id, version) = (&room.room_id, room.version.as_str());
        let sql = "insert into rooms values ($1, $2)";
        self.client.execute(sql, &[room_id, &version]).await.unwrap();
    }

    /// Draws the next stream ordering.
    pub(crate) fn draw(&self) -> i64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Stores accepted events and then the position of the only writer.
    pub(crate) async fn send(&self, room: &Room, events: &[&Event]) {
        for event in events {
            let ordering = self.draw();
            self.store(room, event, ordering, Stored::default()).await;
        }
        self.position("events", "master", self.next.get() - 1).await;
    }

    /// Stores an event.
    pub(crate) async fn store(&self, room: &Room, event: &Event, ordering: i64, stored: Stored) {
        insert(&self.client, room, event, ordering, stored).await;
    }

    /// Stores many accepted events of one room at once, and then the position of the only writer.
    pub(crate) async fn send_many(&self, room: &Room, events: &[Event]) {
        let ids: Vec<&str> = events.iter().map(|it| it.event_id.as_str()).collect();
        let pdus: Vec<&str> = events.iter().map(|it| it.pdu.as_str()).collect();
        let first = self.next.get();
        self.client.batch_execute("begin").await.unwrap();
        let sql = "insert into events select id, $2, $3 + place - 1, false, null, 'master', \
                   pdu::jsonb->>'sender' \
                   from unnest($1::text[], $4::text[]) with ordinality as t(id, pdu, place)";
        self.client.execute(sql, &[&ids, &room.room_id, &first, &pdus]).await.unwrap();
        let sql = "insert into event_json select id, $2, '{}', pdu \
                   from unnest($1::text[], $3::text[]) as t(id, pdu)";
        self.client.execute(sql, &[&ids, &room.room_id, &pdus]).await.unwrap();
        let sql = "insert into event_edges select id, jsonb_array_elements_text(pdu::jsonb->'prev_events') \
                   from unnest($1::text[], $2::text[]) as t(id, pdu)";
        self.client.execute(sql, &[&ids, &pdus]).await.unwrap();
        self.client.batch_execute("commit").await.unwrap();
        self.next.set(first + i64::try_from(events.len()).unwrap());
        self.position("events", "master", self.next.get() - 1).await;
    }

    /// Stores the position of a writer.
    pub(crate) async fn position(&self, stream: &str, writer: &str, number: i64) {
        let sql = "insert into stream_positions values ($1, $2, $3) \
                   on conflict (stream_name, instance_name) do update set stream_id = $3";
        self.client.execute(sql, &[&stream, &writer, &number]).await.unwrap();
    }

    /// Tells that a cache entry is invalid.
    pub(crate) async fn invalidate(&self, function: &str, keys: &[&str]) {
        let sql = "insert into cache_invalidation_stream_by_instance values \
                   (nextval('cache_ids'), 'master', $1, $2, \
                    (extract(epoch from clock_timestamp()) * 1000)::bigint)";
        self.client.execute(sql, &[&function, &keys]).await.unwrap();
    }
}

/// Stores an event over any connection.
pub(crate) async fn insert(
    client: &Client,
    room: &Room,
    event: &Event,
    ordering: i64,
    stored: Stored,
) {
    let Stored { outlier, rejected, soft_failed, state_group } = stored;
    let reason = rejected.then_some("auth_error");
    let (room_id, event_id, pdu) = (&room.room_id, &event.event_id, &event.pdu);
    let members: serde_json::Value = serde_json::from_str(pdu).unwrap();
    let sender = members["sender"].as_str();
    let metadata = if soft_failed { r#"{"soft_failed": true}"# } else { "{}" };
    let prev_events: Vec<String> = serde_json::from_value(members["prev_events"].clone()).unwrap();
    // One statement, because all rows of an event become visible at once.
    let sql = "with event as (insert into events values ($1, $2, $3, $4, $5, 'master', $6)), \
               body as (insert into event_json values ($1, $2, $7, $8)), \
               edges as (insert into event_edges select $1, unnest($9::text[])) \
               insert into event_to_state_groups select $1, $10::bigint where $10 is not null";
    client
        .execute(
            sql,
            &[
                event_id,
                room_id,
                &ordering,
                &outlier,
                &reason,
                &sender,
                &metadata,
                pdu,
                &prev_events,
                &state_group,
            ],
        )
        .await
        .unwrap();
}
