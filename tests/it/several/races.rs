//! Four services are fed the same and different events of the same rooms at the same time. Afterwards the
//! rooms are as if one service had been fed everything in order.
//!
//! `BACKSCROLL_RACE_ROUNDS` is the number of rounds, `BACKSCROLL_RACE_SEED` repeats a printed seed.

use std::{collections::BTreeMap, sync::Arc};

use backscroll::proto::v1::{self as pb, append_events_response::Outcome};
use backscroll_testkit::{Event, Random, Room, random::Rounds};
use serde_json::json;
use tokio::{sync::Barrier, task::JoinSet};

use super::{assert_verified, picture::Picture, postgres, prepare, start};
use crate::support::{
    clients::{Clients, request},
    process::Process,
};

const SERVICES: usize = 4;
const ALICE: &str = "@alice:one.example";
const BOB: &str = "@bob:two.example";
/// Events of the part of a room that all services are fed, and of each part that one of them is fed.
const LENGTH: usize = 60;

/// A room whose events come in parts. Each part begins at the event that invites Bob.
struct SplitRoom {
    room: Room,
    /// All events in an order in which none comes before those that it follows.
    events: Vec<Event>,
    /// The indexes of the events that each service is fed: the common part and a part of its own.
    fed: Vec<Vec<usize>>,
}

impl SplitRoom {
    fn new(version: &str, name: &str) -> Self {
        let (room, create) = Room::named(version, ALICE, name);
        let mut events = vec![create];
        for user in [ALICE, BOB] {
            events.push(room.member(user, user, "join").after(events.last()).finish());
        }
        let begin = events.len() - 1;
        let mut common: Vec<usize> = (0..events.len()).collect();
        let mut tips = Vec::new();
        let mut parts = Vec::new();
        for part in 0..=SERVICES {
            let mut tip = begin;
            let mut indexes = Vec::new();
            for number in 0..LENGTH {
                let after = [&events[tip]];
                let draft = match number % 7 {
                    3 => room.state(ALICE, "m.room.topic", "", json!({"topic": part * number})),
                    5 => room.redaction(BOB, &events[tip].event_id),
                    _ => room.message(BOB, &format!("{part} {number}")),
                };
                let event = draft.after(after).finish();
                tip = events.len();
                indexes.push(tip);
                events.push(event);
            }
            tips.push(tip);
            parts.push(indexes);
        }
        common.extend(parts.pop().unwrap());
        let last =
            room.message(ALICE, "the end").after(tips.iter().map(|it| &events[*it])).finish();
        common.push(events.len());
        events.push(last);
        let fed = parts.into_iter().map(|it| common.iter().copied().chain(it).collect());
        Self { fed: fed.collect(), room, events }
    }

    /// The request that appends an event. Its arrival is its place, whoever appends it first.
    fn request(&self, at: usize) -> pb::AppendEventsRequest {
        let arrival = Some(i64::try_from(at).unwrap());
        pb::AppendEventsRequest { arrival, ..request(&self.room, &self.events[at].pdu) }
    }
}

/// How often an event was appended, by room and id, not counting where it was held already.
type Appended = BTreeMap<(usize, String), u32>;

/// Feeds one service its part of each room, a few events at a time.
async fn feed(
    mut clients: Clients,
    rooms: Arc<Vec<SplitRoom>>,
    service: usize,
    seed: u64,
) -> Appended {
    let (mut random, mut appended) = (Random::new(seed), Appended::new());
    let mut left: Vec<(usize, Vec<usize>)> = (0..)
        .zip(rooms.iter())
        .map(|(room, it)| {
            // Mostly in order; some come before those that they follow.
            let mut order: Vec<(usize, usize)> =
                it.fed[service].iter().map(|at| (at + random.index(12), *at)).collect();
            order.sort_unstable();
            (room, order.into_iter().map(|it| it.1).rev().collect())
        })
        .collect();
    while !left.is_empty() {
        let mut chosen = Vec::new();
        for _ in 0..=random.index(16) {
            let at = random.index(left.len());
            let Some((room, indexes)) = left.get_mut(at) else { break };
            chosen.extend(indexes.pop().map(|it| (*room, it)));
            if indexes.is_empty() {
                left.swap_remove(at);
            }
        }
        let requests = chosen.iter().map(|(room, at)| rooms[*room].request(*at)).collect();
        let answers = clients.append(requests).await.unwrap();
        assert_eq!(answers.len(), chosen.len());
        for ((room, at), answer) in chosen.into_iter().zip(answers) {
            let event_id = rooms[room].events[at].event_id.clone();
            match answer.outcome {
                Some(Outcome::Appended(it)) => {
                    *appended.entry((room, event_id)).or_default() += u32::from(!it.duplicate);
                }
                refused => panic!("{event_id}: {refused:?}"),
            }
        }
    }
    appended
}

/// What a service over sled says that was fed every event in order.
async fn in_order(rooms: &[SplitRoom]) -> Vec<Picture> {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("sled:{}", dir.path().display());
    let service = Process::start_over(&place, &["--reserved-mib", "0", "--cache-mib", "16"]);
    let mut clients = Clients::connect(&service).await;
    for room in rooms {
        let requests = (0..room.events.len()).map(|it| room.request(it)).collect();
        clients.append(requests).await.unwrap();
    }
    pictures(&mut clients, rooms).await
}

async fn pictures(clients: &mut Clients, rooms: &[SplitRoom]) -> Vec<Picture> {
    let mut pictures = Vec::new();
    for SplitRoom { room, events, .. } in rooms {
        let ids: Vec<String> = events.iter().map(|it| it.event_id.clone()).collect();
        pictures.push(Picture::take(clients, &room.room_id, &ids).await);
    }
    pictures
}

/// Races over some rooms in an empty store.
async fn race(place: &str, rooms: usize, random: &mut Random) {
    const VERSIONS: [&str; 3] = ["10", "12", "2"];
    let version = |number: usize| VERSIONS[number % VERSIONS.len()];
    let first = random.index(VERSIONS.len());
    let name = |number: usize| SplitRoom::new(version(first + number), &format!("race{number}"));
    let rooms: Arc<Vec<SplitRoom>> = Arc::new((0..rooms).map(name).collect());
    let expected = in_order(&rooms).await;
    let services = start(place, SERVICES);
    let ready = Arc::new(Barrier::new(SERVICES));
    let mut feeding = JoinSet::new();
    for (number, service) in services.iter().enumerate() {
        let clients = Clients::connect(service).await;
        let (rooms, ready) = (Arc::clone(&rooms), Arc::clone(&ready));
        let seed = random.below(u64::MAX);
        feeding.spawn(async move {
            ready.wait().await;
            feed(clients, rooms, number, seed).await
        });
    }
    let mut appended = Appended::new();
    for of_service in feeding.join_all().await {
        for (event, count) in of_service {
            *appended.entry(event).or_default() += count;
        }
    }
    assert!(
        appended.values().all(|it| *it == 1),
        "each event is appended by one service: {appended:?}"
    );
    assert_verified(&services[0]);
    for service in &services {
        let mut clients = Clients::connect(service).await;
        let found = pictures(&mut clients, &rooms).await;
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found == expected, "found {found:#?}\nexpected {expected:#?}");
        }
    }
    println!("{} rooms, {} events, each appended once", rooms.len(), appended.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_fed_at_the_same_time_make_the_rooms_of_one_service() {
    let rounds = Rounds::of("RACE", 1);
    let Some(postgres) = postgres() else { return };
    let mut random = Random::new(rounds.seed);
    for round in 0..rounds.count {
        for rooms in [1, 10] {
            let place = prepare(&postgres, &format!("race{round}of{rooms}"));
            race(&place, rooms, &mut random).await;
        }
    }
}
