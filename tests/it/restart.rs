//! The real service is killed at random moments under load and while it opens. Afterwards the test looks
//! for every acknowledged event, byte for byte, and verifies the whole store, which computes every edge
//! and every state again.
//!
//! `BACKSCROLL_CRASH_ROUNDS` is the number of rounds, `BACKSCROLL_CRASH_SEED` repeats a printed seed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use backscroll::{
    ingest,
    pdu::RoomVersion,
    proto::v1::{self as pb, append_events_response::Outcome},
    store::{Options, Store},
};
use backscroll_testkit::{Random, random::Rounds};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{
    clients::{self, Clients},
    faults,
    process::Process,
    worlds::{self, Delivery, World},
};

const ROUNDS: u64 = 10;
/// Rounds with the same store; then a new store is created.
const ROUNDS_A_STORE: u64 = 10;
const STREAMS: u64 = 4;
const STEPS: usize = 40;
pub(crate) const FLAGS: [&str; 4] = ["--reserved-mib", "0", "--cache-mib", "16"];
const VERSIONS: [RoomVersion; 5] =
    [RoomVersion::V1, RoomVersion::V2, RoomVersion::V6, RoomVersion::V10, RoomVersion::V12];

/// Makes a random room, with its events in a random order if `shuffled`.
pub(crate) fn world(random: &mut Random, name: &str, shuffled: bool) -> World {
    let mut seed = [0; 32];
    seed.iter_mut().for_each(|it| *it = u8::try_from(random.below(256)).unwrap());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (steps, _) = worlds::history(STEPS).new_tree(&mut runner).unwrap().current();
    let version = VERSIONS[usize::try_from(random.below(5)).unwrap()];
    let mut world = World::named(version, &steps, name);
    if shuffled {
        let mut order: Vec<(u64, Delivery)> =
            world.deliveries.drain(..).map(|it| (random.below(1 << 32), it)).collect();
        order.sort_by_key(|it| it.0);
        world.deliveries.extend(order.into_iter().map(|it| it.1));
    }
    world
}

/// The bytes of acknowledged events, by room id and event id.
pub(crate) type Acknowledged = BTreeMap<(String, String), String>;

/// The request that appends an event as it is delivered.
pub(crate) fn request(world: &World, delivery: &Delivery) -> pb::AppendEventsRequest {
    clients::request_of(&delivery.new_event(&world.room))
}

/// Appends rooms on one stream until the service is killed; returns the acknowledged events.
async fn load(mut clients: Clients, name: String, mut random: Random) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let (to_service, requests) = mpsc::channel(64);
    let Ok(answers) = clients.ingest.append_events(ReceiverStream::new(requests)).await else {
        return acknowledged;
    };
    let mut answers = answers.into_inner();
    let (to_us, mut sent) = mpsc::unbounded_channel();
    let sending = tokio::spawn(async move {
        for room in 0.. {
            let shuffled = random.below(2) == 0;
            let world = world(&mut random, &format!("{name}-{room}"), shuffled);
            let placed = || world.deliveries.iter().filter(|it| !it.outlier);
            // Some events get another verdict, and some of these get their own again.
            let mut requests: Vec<_> =
                world.deliveries.iter().map(|it| (it, request(&world, it))).collect();
            for verdict in [pb::Verdict::Rejected, pb::Verdict::SoftFailed, pb::Verdict::Accepted] {
                for delivery in placed().filter(|_| random.below(8) == 0) {
                    let replace = pb::Replace::Changed.into();
                    let verdict = verdict.into();
                    let request = request(&world, delivery);
                    let other = pb::AppendEventsRequest { verdict, replace, ..request };
                    requests.push((delivery, other));
                }
            }
            for (delivery, request) in requests {
                let of = (request.room_id.clone(), request.event_id.clone());
                let pdu = delivery.event.pdu.clone();
                if to_us.send((of, pdu)).is_err() || to_service.send(request).await.is_err() {
                    return;
                }
            }
        }
    });
    // Responses have the order of the requests; the kill ends the stream.
    while let Ok(Some(answer)) = answers.message().await {
        let (of, pdu) = sent.recv().await.unwrap();
        match answer.outcome {
            Some(Outcome::Appended(_)) => drop(acknowledged.insert(of, pdu)),
            refused => panic!("{of:?}: {refused:?}"),
        }
    }
    sending.abort();
    acknowledged
}

/// The number of acknowledged events that are missing or differ.
pub(crate) async fn lost(clients: &mut Clients, acknowledged: &Acknowledged) -> u64 {
    let mut lost = 0;
    let mut of_rooms: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    for (room_id, event_id) in acknowledged.keys() {
        of_rooms.entry(room_id).or_default().push(event_id);
    }
    for (room_id, event_ids) in of_rooms {
        let named: Vec<String> = event_ids.iter().map(|it| (*it).clone()).collect();
        let held = clients.events(room_id, &named).await.unwrap_or_default();
        let held: BTreeMap<_, _> = held.into_iter().map(|it| (it.event_id, it.pdu)).collect();
        for event_id in event_ids {
            let of = (room_id.clone(), event_id.clone());
            let expected = acknowledged[&of].as_bytes();
            lost += u64::from(held.get(event_id).is_none_or(|it| **it != *expected));
        }
    }
    lost
}

#[derive(Debug, Default)]
struct Table {
    rounds: u64,
    killed_writing: u64,
    killed_opening: u64,
    acknowledged: u64,
    lost: u64,
    faults: u64,
}

/// Starts a service and kills it while it opens its store.
#[expect(clippy::disallowed_methods, reason = "the moment of the kill is random")]
pub(crate) fn kill_while_opening(data_dir: &Path, after: Duration) {
    let mut command = crate::support::process::backscroll(["serve", "--listen", "127.0.0.1:0"]);
    command.args(crate::support::process::store(data_dir)).args(FLAGS);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn round(
    data_dir: &Path,
    round: u64,
    seed: u64,
    acknowledged: &mut Acknowledged,
    table: &mut Table,
) {
    let mut random = Random::new(seed);
    let service = Process::start(data_dir, &FLAGS);
    let clients = Clients::connect(&service).await;
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let name = format!("{round}-{stream}");
        streams.spawn(load(clients.clone(), name, Random::new(random.below(u64::MAX))));
    }
    tokio::time::sleep(Duration::from_millis(5 + random.below(400))).await;
    service.kill();
    table.killed_writing += 1;
    for of_stream in streams.join_all().await {
        acknowledged.extend(of_stream);
    }
    for _ in 0..random.below(4) {
        kill_while_opening(data_dir, Duration::from_millis(random.below(40)));
        table.killed_opening += 1;
    }

    let service = Process::start(data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    let of_round = lost(&mut clients, acknowledged).await;
    service.kill();
    let store = Store::open(&Options::small(data_dir)).unwrap();
    let mut found = faults::of(&store);
    // States that were being derived again are verified when they have been.
    for room_id in ingest::recover(&store).unwrap() {
        ingest::settle_waiting(&store, &room_id).unwrap();
    }
    found.extend(faults::of(&store));
    assert!(of_round == 0 && found.is_empty(), "seed {seed}: {of_round} lost, {found:?}");
    table.rounds += 1;
    table.lost += of_round;
    table.faults += u64::try_from(found.len()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_event_is_lost_when_the_service_is_killed() {
    let Rounds { count: rounds, seed } = Rounds::of("CRASH", ROUNDS);
    let (mut random, mut table) = (Random::new(seed), Table::default());
    let mut done = 0;
    while done < rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = Acknowledged::new();
        for _ in 0..ROUNDS_A_STORE.min(rounds - done) {
            let seed = random.below(u64::MAX);
            round(&dir.path().join("data"), done, seed, &mut acknowledged, &mut table).await;
            done += 1;
        }
        table.acknowledged += u64::try_from(acknowledged.len()).unwrap();
        println!("{table:?}");
    }
    assert!(table.acknowledged > 0, "events were acknowledged");
}
