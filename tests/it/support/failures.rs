//! Requests that must fail, as rows of a table; and the room that they are about.

use std::fmt::Debug;

use backscroll::proto::v1 as pb;
use backscroll_testkit::{Event, Room};
use tonic::{Code, Status, Streaming};

use super::{
    clients::{Clients, read_to_end, reason, request},
    process::Process,
};

pub(crate) const ALICE: &str = "@alice:one.example";
pub(crate) const BOB: &str = "@bob:two.example";
/// The number of events of the room.
pub(crate) const EVENTS: usize = 250;

/// A running service with one room of two servers: one.example, which is our own, and two.example.
pub(crate) struct Stage {
    pub(crate) room: Room,
    /// The events of the room, oldest first.
    pub(crate) events: Vec<Event>,
    pub(crate) clients: Clients,
    pub(crate) service: Process,
    _dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Process::start(&dir.path().join("data"), &["--reserved-mib", "0"]);
        let mut clients = Clients::connect(&service).await;
        let (room, create) = Room::new("10", ALICE);
        let mut events = vec![create];
        for user in [ALICE, BOB] {
            let joined = room.member(user, user, "join").after(events.last()).finish();
            events.push(joined);
        }
        while events.len() < EVENTS {
            let next = room.message(BOB, "a message").after(events.last()).finish();
            events.push(next);
        }
        let requests = events.iter().map(|it| request(&room, &it.pdu)).collect();
        clients.append(requests).await.unwrap();
        Self { room, events, clients, service, _dir: dir }
    }

    pub(crate) fn room_id(&self) -> String {
        self.room.room_id.clone()
    }

    /// The id of the newest event.
    pub(crate) fn last(&self) -> String {
        self.events.last().unwrap().event_id.clone()
    }
}

/// The id of a room that no store has.
pub(crate) fn unknown_room() -> String {
    "!unknown:one.example".to_owned()
}

pub(crate) fn requester(origin: &str) -> Option<pb::Requester> {
    Some(pb::Requester { origin: origin.to_owned(), destination: "one.example".to_owned() })
}

/// One row: a request, and the error that it must get.
#[derive(Clone, Debug)]
pub(crate) struct Row<R> {
    pub(crate) request: R,
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
}

impl<R> Row<R> {
    pub(crate) fn new(request: R, code: Code, reason: &'static str) -> Self {
        Self { request, code, reason }
    }
}

/// Sends the request of each row, and checks its error.
pub(crate) async fn assert_failures<R: Clone + Debug, T>(
    rows: impl IntoIterator<Item = Row<R>>,
    call: impl AsyncFn(R) -> Result<T, Status>,
) {
    for row in rows {
        let status = call(row.request.clone()).await.err();
        let error = status.as_ref().map(reason);
        assert_eq!(error, Some((row.code, row.reason.to_owned())), "{:?}", row.request);
    }
}

/// All messages of a stream, or the error that ends it.
pub(crate) async fn all<T>(
    stream: Result<tonic::Response<Streaming<T>>, Status>,
) -> Result<Vec<T>, Status> {
    read_to_end(stream?.into_inner()).await
}

/// Page tokens that no RPC ever returned.
pub(crate) const INVALID_TOKENS: [&str; 8] =
    ["x", "1", "1.", ".1", "1.x", "99999999999999999999.1", "é", "-"];
