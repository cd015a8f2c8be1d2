//! The requests of the measurement: the same at each run, signed beforehand.

use backscroll::{
    proto::v1 as pb,
    query::{Asker, Backfill, GetMissingEvents},
};
use backscroll_testkit::{Federation, FederationRequest, Random};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::rooms::{ASKING, Made, OURS};

/// The most requests made for one room. The generator starts again when all were sent.
const MAX_REQUESTS: usize = 500;
/// Events between the two ends of a `get_missing_events` request: somewhat more than a response has.
const GAP: usize = 25;
const BACKFILL_LIMIT: u32 = 100;
const MISSING_EVENTS_LIMIT: u32 = 20;

/// One of the two federation endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Backfill,
    GetMissingEvents,
}

impl Endpoint {
    /// The endpoint's name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill?limit=100",
            Self::GetMissingEvents => "get_missing_events, 20",
        }
    }
}

/// One request in every form in which it is sent.
#[derive(Clone, Debug)]
pub(crate) struct BenchRequest {
    pub(crate) method: &'static str,
    pub(crate) uri: String,
    /// The JSON body; empty for a GET request.
    pub(crate) content: String,
    pub(crate) authorization: String,
    pub(crate) rpc: Rpc,
}

/// The request as protobuf.
#[derive(Clone, Debug)]
pub(crate) enum Rpc {
    Backfill(pb::BackfillRequest),
    GetMissingEvents(pb::GetMissingEventsRequest),
}

/// The request as the use case takes it.
pub(crate) enum Query {
    Backfill(Backfill),
    GetMissingEvents(GetMissingEvents),
}

/// A request about a part of a room: from a later event back to an earlier one.
struct Range<'a> {
    room_id: &'a str,
    earlier: &'a str,
    later: &'a str,
}

/// Makes requests about events in all parts of a room.
pub(crate) fn for_room(
    room: &Made,
    endpoint: Endpoint,
    seed: u64,
    federation: &Federation,
) -> Vec<BenchRequest> {
    let mut random = Random::new(seed);
    let messages = &room.messages;
    // Far enough from the beginning that a response is full.
    let first = messages.len().saturating_sub(1).min(100);
    let mut requests = Vec::new();
    for _ in 0..MAX_REQUESTS.min(messages.len()) {
        let at = first + random.index(messages.len() - first);
        let Some(later) = messages.get(at) else { continue };
        let Some(earlier) = messages.get(at.saturating_sub(GAP)) else { continue };
        let range = Range { room_id: &room.room_id, earlier, later };
        requests.push(match endpoint {
            Endpoint::Backfill => range.backfill(federation),
            Endpoint::GetMissingEvents => range.get_missing_events(federation),
        });
    }
    requests
}

impl Range<'_> {
    fn backfill(&self, federation: &Federation) -> BenchRequest {
        let room = encoded(self.room_id);
        let event = encoded(self.later);
        let uri =
            format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit={BACKFILL_LIMIT}");
        let rpc = pb::BackfillRequest {
            room_id: self.room_id.to_owned(),
            requester: Some(requester()),
            event_ids: vec![self.later.to_owned()],
            limit: Some(BACKFILL_LIMIT),
            omit_event_ids: true,
            feeder_bounds: None,
        };
        signed("GET", uri, None, Rpc::Backfill(rpc), federation)
    }

    fn get_missing_events(&self, federation: &Federation) -> BenchRequest {
        let uri = format!("/_matrix/federation/v1/get_missing_events/{}", encoded(self.room_id));
        let content = json!({
            "earliest_events": [self.earlier],
            "latest_events": [self.later],
            "limit": MISSING_EVENTS_LIMIT,
            "min_depth": 0,
        });
        let rpc = pb::GetMissingEventsRequest {
            room_id: self.room_id.to_owned(),
            requester: Some(requester()),
            earliest_events: vec![self.earlier.to_owned()],
            latest_events: vec![self.later.to_owned()],
            limit: Some(MISSING_EVENTS_LIMIT),
            min_depth: 0,
            omit_event_ids: true,
            feeder_bounds: None,
        };
        signed("POST", uri, Some(&content), Rpc::GetMissingEvents(rpc), federation)
    }
}

fn signed(
    method: &'static str,
    uri: String,
    content: Option<&Value>,
    rpc: Rpc,
    federation: &Federation,
) -> BenchRequest {
    let request =
        FederationRequest { origin: ASKING, destination: OURS, method, uri: &uri, content };
    let authorization = federation.authorization(request);
    let content = content.map(ToString::to_string).unwrap_or_default();
    BenchRequest { method, uri, content, authorization, rpc }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn requester() -> pb::Requester {
    pb::Requester { origin: ASKING.to_owned(), destination: OURS.to_owned() }
}

impl Rpc {
    /// The request for the use case, without gRPC.
    pub(crate) fn query(&self) -> Query {
        let asker = Asker::Server { origin: ASKING.to_owned(), destination: OURS.to_owned() };
        match self.clone() {
            Self::Backfill(it) => Query::Backfill(Backfill {
                room_id: it.room_id,
                asker,
                event_ids: it.event_ids,
                limit: it.limit,
            }),
            Self::GetMissingEvents(it) => Query::GetMissingEvents(GetMissingEvents {
                room_id: it.room_id,
                asker,
                earliest_events: it.earliest_events,
                latest_events: it.latest_events,
                limit: it.limit,
                min_depth: it.min_depth,
            }),
        }
    }
}
