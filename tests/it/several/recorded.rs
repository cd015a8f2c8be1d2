//! Every recorded request gets the expected response, and every recorded state is right, when events and
//! requests are spread over two services.

use std::collections::BTreeMap;

use backscroll::{ingest::NewEvent, proto::v1 as pb};
use backscroll_gateway::{keys::PinnedKeys, server::Options as GatewayOptions};
use backscroll_testkit::{Federation, FederationRequest, Random};

use super::{assert_verified, postgres, prepare, start};
use crate::{
    recorded::{Tally, by_destination, fault, first, hash_of_state, state_line},
    support::{
        clients::{Clients, request_of},
        process::Process,
        rooms::{self, Keys, RecordedRoom},
        services::Gateway,
    },
};

/// Two services over one store, each with a gateway.
struct Pair {
    services: Vec<Process>,
    clients: Vec<Clients>,
    gateways: Vec<Gateway>,
    random: Random,
}

impl Pair {
    async fn start(place: &str, server: &str, keys: &Keys) -> Self {
        let services = start(place, 2);
        let (mut clients, mut gateways) = (Vec::new(), Vec::new());
        for service in &services {
            clients.push(Clients::connect(service).await);
            let url = service.url().parse().unwrap();
            let keys = PinnedKeys::from_json(keys.server.as_bytes()).unwrap();
            let options =
                GatewayOptions { keys, ..GatewayOptions::new(server.parse().unwrap(), url) };
            gateways.push(Gateway::start(options).await);
        }
        Self { services, clients, gateways, random: Random::new(1) }
    }

    /// Whichever service is next.
    fn any(&mut self) -> usize {
        self.random.index(self.clients.len())
    }

    /// Appends the events in the order of the file, a few through one service and a few through another.
    async fn append(&mut self, room: &RecordedRoom) {
        let mut lines = room.lines.as_slice();
        while !lines.is_empty() {
            let (some, rest) = lines.split_at(lines.len().min(1 + self.random.index(8)));
            let line = |line| request_of(&NewEvent::of_line(&room.header, line));
            let at = self.any();
            let answers = self.clients[at].append(some.iter().map(line).collect()).await.unwrap();
            for answer in answers {
                use pb::append_events_response::Outcome::Appended;
                assert!(matches!(answer.outcome, Some(Appended(_))), "{}: {answer:?}", room.name);
            }
            lines = rest;
        }
        for user_id in room.header.erased_users.clone() {
            let at = self.any();
            let request = pb::SetUserErasedRequest { user_id, erased: true };
            self.clients[at].ingest.set_user_erased(request).await.unwrap();
        }
    }

    /// The hash of the state after an event.
    async fn state_hash(&mut self, room_id: &str, event_id: &str) -> String {
        let (mut lines, mut page_token) = (Vec::new(), String::new());
        loop {
            let (room_id, event_id) = (room_id.to_owned(), event_id.to_owned());
            let request = pb::GetStateRequest { room_id, event_id, page_size: 1_000, page_token };
            let at = self.any();
            let page = self.clients[at].history.get_state(request).await.unwrap().into_inner();
            let line = |it: &pb::StateEntry| state_line([&it.r#type, &it.state_key, &it.event_id]);
            lines.extend(page.entries.iter().map(line));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return hash_of_state(lines);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_and_state_is_right_through_two_services() {
    let Some(postgres) = postgres() else { return };
    let (rooms, keys) = (rooms::all(), rooms::keys());
    let federation = Federation::from_json(&keys.signing);
    let (mut tally, mut states, mut wrong) = (Tally::default(), 0, Vec::new());
    // Two servers have different versions of the same room: each server needs a store of its own.
    let stores: BTreeMap<_, _> = by_destination(&rooms);
    for (number, (server, rooms)) in stores.into_iter().enumerate() {
        let place = prepare(&postgres, &format!("recorded{number}"));
        let mut pair = Pair::start(&place, server, &keys).await;
        for room in &rooms {
            pair.append(room).await;
        }
        for room in &rooms {
            for request in &room.requests {
                let sent = FederationRequest {
                    origin: &request.origin,
                    destination: &request.destination,
                    method: &request.method,
                    uri: &request.uri,
                    content: request.content.as_ref(),
                };
                let at = pair.any();
                let answer = federation.send(pair.gateways[at].address, sent).await;
                let fault = fault(room, request, answer.status.as_u16(), &answer.body);
                tally.add(request, fault.is_none());
                wrong.extend(fault.map(|it| format!("{} {}: {it}", room.name, request.uri)));
            }
            for (event_id, hash) in &room.states {
                let is_right = pair.state_hash(&room.header.room_id, event_id).await == *hash;
                states += u32::from(is_right);
                wrong.extend((!is_right).then(|| format!("{}: {event_id}", room.name)));
            }
        }
        assert_verified(&pair.services[0]);
    }
    println!("through two services over one PostgreSQL, {} rooms, {states} states:", rooms.len());
    tally.print();
    assert!(wrong.is_empty(), "{} differ, such as:\n{}", wrong.len(), first(&wrong));
}
