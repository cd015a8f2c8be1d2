//! Everything that can be asked about a random room, in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use backscroll::{
    ingest::{self, Outcome},
    query::{Asker, Backfill},
    visibility::Form,
};

use super::{
    answers::{self, Question, State, Summary},
    memory::Memory,
    model::HOME,
    worlds::{SERVERS, World},
};

/// The results of all queries about a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    /// The form and the bytes for each server and event.
    pub(crate) served: BTreeMap<(String, String), (Form, Vec<u8>)>,
    pub(crate) states: BTreeMap<String, State>,
    pub(crate) summary: Summary,
}

/// Appends all events of a world, in order.
pub(crate) fn deliver(memory: &Memory, world: &World) -> Vec<Outcome> {
    let events = world.deliveries.iter().map(|it| it.new_event(&world.room));
    events.map(|it| ingest::append_unflushed(&memory.cx, &it).unwrap()).collect()
}

/// Asks everything about the room of a world.
pub(crate) fn picture(memory: &Memory, world: &World) -> Picture {
    let ids: Vec<String> = world.deliveries.iter().map(|it| it.event.event_id.clone()).collect();
    let room_id = &world.room.room_id;
    let mut served = BTreeMap::new();
    let sister = [(Asker::Internal, "")];
    let servers = SERVERS.map(|origin| {
        let asker = Asker::Server { origin: origin.to_owned(), destination: HOME.to_owned() };
        (asker, origin)
    });
    for (asker, origin) in sister.into_iter().chain(servers) {
        for event_id in &ids {
            let question = Question::Backfill(Backfill {
                room_id: room_id.clone(),
                asker: asker.clone(),
                event_ids: vec![event_id.clone()],
                limit: Some(100),
            });
            let answer = question.ask(&memory.cx).ok();
            for (event_id, form, pdu) in answer.into_iter().flat_map(|it| it.events) {
                served.insert((origin.to_owned(), event_id), (form, pdu));
            }
        }
    }
    let placed: BTreeSet<&String> = served.keys().map(|(_, event_id)| event_id).collect();
    let state = |it: &&String| ((*it).clone(), answers::state(&memory.cx, room_id, it));
    let states = placed.iter().map(state).collect();
    Picture { served, states, summary: answers::summary(&memory.cx, room_id) }
}
