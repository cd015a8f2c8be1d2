//! What a service says about a room, in a form that can be compared with what another says.

use std::collections::{BTreeMap, BTreeSet};

use backscroll::proto::v1 as pb;
use tonic::Code;

use crate::support::{clients::Clients, failures::requester};

/// The servers that ask. The third is not in the rooms.
const ASKING: [&str; 3] = ["two.example", "three.example", "no.example"];

/// The type, state key and id of each event of a state.
type State = BTreeSet<(String, String, String)>;

/// What must not depend on who wrote the room and in which order.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    events: BTreeMap<String, pb::RoomEvent>,
    /// The state after each event; `None` if it is not known.
    states: BTreeMap<String, Option<State>>,
    /// For each server that asks: the events that it gets, or why it gets none.
    served: BTreeMap<String, Result<Served, String>>,
    room: pb::GetRoomResponse,
}

/// What a server gets.
#[derive(Debug, PartialEq)]
struct Served {
    ids: Vec<String>,
    pdus: Vec<u8>,
}

impl Picture {
    /// Asks everything about a room that has these events.
    pub(super) async fn take(clients: &mut Clients, room_id: &str, ids: &[String]) -> Self {
        let events = clients.events(room_id, ids).await.unwrap();
        let events = events.into_iter().map(|it| (it.event_id.clone(), it)).collect();
        let mut states = BTreeMap::new();
        for event_id in ids {
            states.insert(event_id.clone(), state(clients, room_id, event_id).await);
        }
        let request = pb::GetRoomRequest { room_id: room_id.to_owned() };
        let mut room = clients.history.get_room(request).await.unwrap().into_inner();
        room.forward_extremities.sort();
        room.backward_extremities.sort();
        room.state_needed_event_ids.sort();
        let mut served = BTreeMap::new();
        for origin in ASKING {
            let request = pb::BackfillRequest {
                room_id: room_id.to_owned(),
                requester: requester(origin),
                event_ids: room.forward_extremities.clone(),
                limit: Some(100),
                ..pb::BackfillRequest::default()
            };
            let answer = clients.history.backfill(request).await.map(|it| {
                let it = it.into_inner();
                Served { ids: it.event_ids, pdus: it.pdus.to_vec() }
            });
            served.insert(origin.to_owned(), answer.map_err(|it| it.message().to_owned()));
        }
        Self { events, states, served, room }
    }
}

/// The state after an event; `None` if it is not known.
async fn state(clients: &mut Clients, room_id: &str, event_id: &str) -> Option<State> {
    let request = pb::GetStateRequest {
        room_id: room_id.to_owned(),
        event_id: event_id.to_owned(),
        page_size: 1_000,
        page_token: String::new(),
    };
    match clients.history.get_state(request).await {
        Ok(page) => {
            let page = page.into_inner();
            assert_eq!(page.next_page_token, "", "the state fits a page");
            let entries = page.entries.into_iter();
            Some(entries.map(|it| (it.r#type, it.state_key, it.event_id)).collect())
        }
        Err(status) if status.code() == Code::FailedPrecondition => None,
        Err(status) => panic!("{event_id}: {status}"),
    }
}
