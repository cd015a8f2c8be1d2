//! What is asked: the same questions at each run, signed beforehand.

use backscroll::{
    proto::v1 as pb,
    query::{Asker, Backfill, GetMissingEvents},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::{
    federation::{self, Federation},
    rooms::{ASKING, Dice, Made, OURS},
};

/// Most questions that are made of one room: asked again from the start when all were asked.
const AT_MOST: usize = 500;
/// What the gap spans that is asked for, somewhat more than an answer.
const GAP: usize = 25;
const BACKFILL_LIMIT: u32 = 100;
const MISSING_LIMIT: u32 = 20;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Backfill,
    MissingEvents,
}

impl Endpoint {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill?limit=100",
            Self::MissingEvents => "get_missing_events, 20",
        }
    }
}

/// One question, as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: &'static str,
    pub(crate) uri: String,
    pub(crate) content: String,
    pub(crate) authorization: String,
    pub(crate) plain: Plain,
}

/// The same question without a signature.
#[derive(Clone, Debug)]
pub(crate) enum Plain {
    Backfill(pb::BackfillRequest),
    MissingEvents(pb::GetMissingEventsRequest),
}

/// Questions about events all over a room.
pub(crate) fn ask_of(
    room: &Made,
    endpoint: Endpoint,
    (seed, federation): (u64, &Federation),
) -> Vec<Question> {
    let mut dice = Dice(seed);
    let messages = &room.messages;
    // Not so near to the beginning that the answer would be short.
    let first = messages.len().saturating_sub(1).min(100);
    let mut questions = Vec::new();
    for _ in 0..AT_MOST.min(messages.len()) {
        let at = first + dice.roll(messages.len() - first);
        let (Some(from), Some(held)) = (messages.get(at), messages.get(at.saturating_sub(GAP)))
        else {
            continue;
        };
        questions.push(question(&room.room_id, endpoint, (from, held), federation));
    }
    questions
}

fn question(
    room_id: &str,
    endpoint: Endpoint,
    (from, held): (&str, &str),
    federation: &Federation,
) -> Question {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let room = encoded(room_id);
    let requester = Some(pb::Requester { origin: ASKING.to_owned(), destination: OURS.to_owned() });
    let room_id = room_id.to_owned();
    let (method, uri, content, plain) = match endpoint {
        Endpoint::Backfill => {
            let v = encoded(from);
            let uri =
                format!("/_matrix/federation/v1/backfill/{room}?v={v}&limit={BACKFILL_LIMIT}");
            let event_ids = vec![from.to_owned()];
            let limit = Some(BACKFILL_LIMIT);
            let plain =
                pb::BackfillRequest { room_id, requester, event_ids, limit, omit_event_ids: true };
            ("GET", uri, None, Plain::Backfill(plain))
        }
        Endpoint::MissingEvents => {
            let uri = format!("/_matrix/federation/v1/get_missing_events/{room}");
            let content = json!({
                "earliest_events": [held], "latest_events": [from],
                "limit": MISSING_LIMIT, "min_depth": 0,
            });
            let plain = pb::GetMissingEventsRequest {
                room_id,
                requester,
                earliest_events: vec![held.to_owned()],
                latest_events: vec![from.to_owned()],
                limit: Some(MISSING_LIMIT),
                min_depth: 0,
                omit_event_ids: true,
            };
            ("POST", uri, Some(content), Plain::MissingEvents(plain))
        }
    };
    let authorization = federation.authorization(federation::Question {
        origin: ASKING,
        destination: OURS,
        method,
        uri: &uri,
        content: content.as_ref(),
    });
    let content = content.map(|it| it.to_string()).unwrap_or_default();
    Question { method, uri, content, authorization, plain }
}

/// For the use cases, without a door.
pub(crate) enum Decoded {
    Backfill(Backfill),
    MissingEvents(GetMissingEvents),
}

impl Plain {
    pub(crate) fn decoded(&self) -> Decoded {
        let asker = Asker::Server { origin: ASKING.to_owned(), destination: OURS.to_owned() };
        match self.clone() {
            Self::Backfill(it) => Decoded::Backfill(Backfill {
                room_id: it.room_id,
                asker,
                event_ids: it.event_ids,
                limit: it.limit,
            }),
            Self::MissingEvents(it) => Decoded::MissingEvents(GetMissingEvents {
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
