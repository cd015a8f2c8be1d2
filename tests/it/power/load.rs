//! The load of a recorded service: events of several rooms, on several streams, with bodies that do not
//! compress; and the acknowledged events with their position in the recording.

use std::{collections::BTreeMap, time::Duration};

use backscroll::{
    pdu::RoomVersion,
    proto::v1::{self as pb, append_events_response::Outcome},
};
use backscroll_testkit::{Event, Random, Room};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::record::Recording;
use crate::support::clients::{Clients, request};

const USER: &str = "@alice:one.example";
/// Requests in flight on a stream.
const IN_FLIGHT: usize = 40;
/// How long an acknowledgement may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An acknowledged event.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) room_id: String,
    pub(crate) event_id: String,
    pub(crate) pdu: String,
    /// The number of records when it was acknowledged.
    pub(crate) after: usize,
    /// The record from which on it may be missing, because it was purged.
    pub(crate) purged: Option<usize>,
}

/// A room to which messages are appended.
pub(crate) struct Growing {
    pub(crate) room: Room,
    last: Event,
    begun: bool,
}

impl Growing {
    pub(crate) fn new(name: &str) -> Self {
        let (room, create) = Room::named(RoomVersion::V10, USER, name);
        Self { room, last: create, begun: false }
    }

    /// Makes the next `count` events.
    pub(crate) fn next(&mut self, count: u64, random: &mut Random) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..count {
            if self.begun {
                let bytes = match random.below(20) {
                    0 => 45_000,
                    1..=6 => 8_000,
                    _ => 100 + random.below(3_000),
                };
                let message = self.room.message(USER, &noise(bytes, random));
                self.last = message.after([&self.last]).finish();
            }
            self.begun = true;
            events.push(self.last.clone());
        }
        events
    }
}

/// A text of this number of bytes that does not compress.
fn noise(bytes: u64, random: &mut Random) -> String {
    let bytes = usize::try_from(bytes).unwrap();
    let mut hash = Sha256::digest(random.below(u64::MAX).to_be_bytes());
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        text.extend(
            hash.iter().map(|it| char::from(b'A' + it % 58)).map(
                |it| {
                    if it == '\\' { '-' } else { it }
                },
            ),
        );
        hash = Sha256::digest(hash);
    }
    text
}

/// Appends events to several rooms, one stream per room with `in_flight` requests, until all are
/// acknowledged or the service has ended.
pub(crate) async fn burst(
    clients: &Clients,
    recording: &Recording,
    rooms: &[(&Room, Vec<Event>)],
) -> Vec<Acknowledged> {
    let mut streams = JoinSet::new();
    for (room, events) in rooms {
        let requests: Vec<_> = events.iter().map(|it| request(room, &it.pdu)).collect();
        streams.spawn(stream(clients.clone(), requests, recording.clone(), IN_FLIGHT));
    }
    let mut acknowledged = Vec::new();
    for of_stream in streams.join_all().await {
        acknowledged.extend(of_stream);
    }
    acknowledged
}

/// Appends events one after the other.
pub(crate) async fn single(
    clients: &Clients,
    recording: &Recording,
    room: &Room,
    events: &[Event],
) -> Vec<Acknowledged> {
    let requests = events.iter().map(|it| request(room, &it.pdu)).collect();
    stream(clients.clone(), requests, recording.clone(), 1).await
}

async fn stream(
    mut clients: Clients,
    requests: Vec<pb::AppendEventsRequest>,
    recording: Recording,
    in_flight: usize,
) -> Vec<Acknowledged> {
    let (to_service, incoming) = mpsc::channel(in_flight);
    let Ok(answers) = clients.ingest.append_events(ReceiverStream::new(incoming)).await else {
        return Vec::new();
    };
    let (mut answers, mut acknowledged, mut sent) = (answers.into_inner(), Vec::new(), 0);
    while acknowledged.len() < requests.len() {
        while sent < requests.len() && sent < acknowledged.len() + in_flight {
            if to_service.send(requests[sent].clone()).await.is_err() {
                return acknowledged;
            }
            sent += 1;
        }
        let answer = timeout(PATIENCE, answers.message()).await;
        let Ok(Some(answer)) = answer.expect("an append gets no response") else { break };
        assert!(matches!(answer.outcome, Some(Outcome::Appended(_))), "{answer:?}");
        let request = &requests[acknowledged.len()];
        acknowledged.push(Acknowledged {
            room_id: request.room_id.clone(),
            event_id: answer.event_id,
            pdu: String::from_utf8(request.pdu.to_vec()).unwrap(),
            after: recording.now(),
            purged: None,
        });
    }
    acknowledged
}

/// Purges the older half of a room. From now on these events may be missing.
pub(crate) async fn purge(
    clients: &Clients,
    recording: &Recording,
    room: &Room,
    acknowledged: &mut [Acknowledged],
) {
    let of_room: Vec<usize> =
        (0..acknowledged.len()).filter(|it| acknowledged[*it].room_id == room.room_id).collect();
    let Some(middle) = of_room.get(of_room.len() / 2) else { return };
    let event_id = acknowledged[*middle].event_id.clone();
    for at in &of_room[..of_room.len() / 2] {
        let purged = &mut acknowledged[*at].purged;
        *purged = purged.or(Some(recording.now()));
    }
    let request =
        pb::PurgeHistoryRequest { may_return: false, room_id: room.room_id.clone(), event_id };
    let mut clients = clients.clone();
    let Ok(answers) = clients.ingest.purge_history(request).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(_)) = timeout(PATIENCE, answers.message()).await.unwrap() {}
}

/// The events that must be stored after a power cut at a record, by room.
pub(crate) fn due(acknowledged: &[Acknowledged], at: usize) -> BTreeMap<&str, Vec<&Acknowledged>> {
    let mut due: BTreeMap<&str, Vec<&Acknowledged>> = BTreeMap::new();
    for it in acknowledged {
        if it.after <= at && it.purged.is_none_or(|purged| at < purged) {
            due.entry(&it.room_id).or_default().push(it);
        }
    }
    due
}
