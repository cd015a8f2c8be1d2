//! Services, processes of the database, the whole database and its machine die while two services are fed,
//! and connections are cut between a COMMIT and its answer. No acknowledged event is lost or doubled.
//!
//! `BACKSCROLL_DATABASE_CRASH_ROUNDS` is the number of rounds, `BACKSCROLL_DATABASE_CRASH_SEED` repeats a
//! printed seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backscroll::proto::v1::append_events_response::Outcome;
use backscroll_testkit::{Random, cutter::Cutter, random::Rounds, within_async};
use tokio::task::JoinSet;

use super::{PATIENCE, assert_verified, servers::Servers, start};
use crate::{
    restart::{Acknowledged, lost, request, world},
    support::{clients::Clients, process::Process},
};

const SERVICES: usize = 2;
const STREAMS: usize = 4;
/// Rounds with the same store; then a new store is made.
const ROUNDS_A_STORE: u64 = 10;
/// The greatest number of events that are sent together.
const TOGETHER: usize = 12;

/// What dies in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Death {
    /// A history service.
    Service,
    /// A process of the database that serves a connection.
    Backend,
    /// The database, which is started again.
    Database,
    /// The primary; its standby becomes one.
    Primary,
    /// Connections, after a COMMIT was sent.
    Connections,
}

const DEATHS: [Death; 5] =
    [Death::Service, Death::Backend, Death::Database, Death::Primary, Death::Connections];

/// What a stream of events has seen.
#[derive(Default)]
struct Seen {
    acknowledged: Acknowledged,
    /// The events that were appended, rather than held already, once for each time; an outlier that is
    /// appended as an event of the graph later is both.
    appended: Vec<(String, String, bool)>,
    /// How often events had to be sent again.
    sent_again: u64,
    longest_wait: Duration,
}

/// The addresses of the services, which change when a service is started again.
type Addresses = Arc<Mutex<Vec<String>>>;

/// Feeds rooms to whichever service answers until it is told to stop. What is not acknowledged is sent
/// again.
async fn load(
    addresses: Addresses,
    done: Arc<AtomicBool>,
    mut random: Random,
    name: String,
) -> Seen {
    let mut seen = Seen::default();
    for room in 0.. {
        let world = world(&mut random, &format!("{name}-{room}"), room % 2 == 0);
        let mut deliveries = world.deliveries.as_slice();
        while !deliveries.is_empty() {
            if done.load(Ordering::Relaxed) {
                return seen;
            }
            let (mut some, rest) =
                deliveries.split_at(deliveries.len().min(1 + random.index(TOGETHER)));
            let begun = Instant::now();
            while !some.is_empty() {
                let address = {
                    let addresses = addresses.lock().unwrap();
                    addresses[random.index(addresses.len())].clone()
                };
                let requests = some.iter().map(|it| request(&world, it));
                let append = append(&address, requests.collect());
                let outcomes = within_async(PATIENCE, "events are acknowledged", append).await;
                seen.sent_again += u64::from(outcomes.len() < some.len());
                for (outcome, delivery) in outcomes.iter().zip(some) {
                    let event = (world.room.room_id.clone(), delivery.event.event_id.clone());
                    let Outcome::Appended(appended) = outcome else {
                        panic!("{event:?}: {outcome:?}")
                    };
                    if !appended.duplicate && !appended.state_given {
                        let (room_id, event_id) = event.clone();
                        seen.appended.push((room_id, event_id, delivery.outlier));
                    }
                    seen.acknowledged.insert(event, delivery.event.pdu.clone());
                }
                some = &some[outcomes.len()..];
            }
            seen.longest_wait = seen.longest_wait.max(begun.elapsed());
            deliveries = rest;
        }
    }
    seen
}

/// Appends events; returns what was answered before the stream ended, with or without an error.
async fn append(
    address: &str,
    requests: Vec<backscroll::proto::v1::AppendEventsRequest>,
) -> Vec<Outcome> {
    let mut clients = Clients::at(address);
    let mut outcomes = Vec::new();
    if let Ok(answers) = clients.ingest.append_events(tokio_stream::iter(requests)).await {
        let mut answers = answers.into_inner();
        while let Ok(Some(answer)) = answers.message().await {
            outcomes.extend(answer.outcome);
        }
    }
    if outcomes.is_empty() {
        // The service has just died, or refuses: it is not asked again at once.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    outcomes
}

/// The services and the database, and what all rounds have seen.
struct Stage {
    servers: Servers,
    place: String,
    services: Vec<Process>,
    acknowledged: Acknowledged,
}

/// The sums of all rounds.
#[derive(Debug, Default)]
struct Table {
    rounds: BTreeMap<Death, u64>,
    acknowledged: usize,
    sent_again: u64,
    cuts: u64,
    longest_wait: BTreeMap<Death, Duration>,
}

impl Stage {
    fn start(mut servers: Servers) -> Self {
        let place = servers.prepare();
        let services = start(&place, SERVICES);
        Self { servers, place, services, acknowledged: Acknowledged::new() }
    }

    fn addresses(&self) -> Vec<String> {
        self.services.iter().map(|it| it.url()).collect()
    }

    /// Lets something die, and returns when it is there again.
    async fn let_die(&mut self, death: Death, random: &mut Random, addresses: &Addresses) {
        match death {
            Death::Service => {
                let killed = random.index(SERVICES);
                self.services.remove(killed).kill();
                self.services.extend(start(&self.place, 1));
                *addresses.lock().unwrap() = self.addresses();
            }
            Death::Backend => {
                self.servers.primary.kill_backend(|count| random.index(count));
            }
            Death::Database => self.servers.primary.crash(),
            Death::Primary => self.servers.fail_over(),
            Death::Connections => {
                self.servers.cutters[0].cut_commits(30, random.below(u64::MAX));
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.servers.cutters[0].cut_commits(0, 0);
            }
        }
    }

    /// Looks for everything that was acknowledged, and verifies the store.
    async fn check(&mut self, seen: &Acknowledged) {
        let mut clients = Clients::connect(&self.services[0]).await;
        assert_eq!(lost(&mut clients, seen).await, 0, "acknowledged events are lost");
        let rooms: BTreeSet<&String> = seen.keys().map(|it| &it.0).collect();
        for room_id in rooms {
            let (room, events) = clients.room(room_id).await.unwrap();
            let ids: BTreeSet<&String> = events.iter().map(|it| &it.event_id).collect();
            assert_eq!(ids.len(), events.len(), "{room_id}: an event is there twice");
            assert_eq!(room.appended_count, room.event_count, "{room_id}: numbers are left out");
        }
        assert_verified(&self.services[1]);
    }
}

async fn round(stage: &mut Stage, death: Death, seed: u64, table: &mut Table) {
    let mut random = Random::new(seed);
    let addresses = Addresses::new(Mutex::new(stage.addresses()));
    let done = Arc::new(AtomicBool::default());
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let (addresses, done) = (Arc::clone(&addresses), Arc::clone(&done));
        let name = format!("{seed}-{stream}");
        streams.spawn(load(addresses, done, Random::new(random.below(u64::MAX)), name));
    }
    tokio::time::sleep(Duration::from_millis(100 + random.below(400))).await;
    let cuts = |stage: &Stage| stage.servers.cutters.iter().map(Cutter::cuts).sum::<u64>();
    let before = cuts(stage);
    stage.let_die(death, &mut random, &addresses).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    done.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut appended) = (Acknowledged::new(), Vec::new());
    for seen in streams.join_all().await {
        acknowledged.extend(seen.acknowledged);
        appended.extend(seen.appended);
        table.sent_again += seen.sent_again;
        let longest = table.longest_wait.entry(death).or_default();
        *longest = seen.longest_wait.max(*longest);
    }
    let count = appended.len();
    let different: BTreeSet<_> = appended.into_iter().collect();
    assert_eq!(different.len(), count, "seed {seed}: an event was appended twice");
    stage.check(&acknowledged).await;
    *table.rounds.entry(death).or_default() += 1;
    table.acknowledged += acknowledged.len();
    table.cuts += cuts(stage) - before;
    stage.acknowledged.extend(acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_event_is_lost_or_doubled_whatever_dies() {
    let rounds = Rounds::of("DATABASE_CRASH", u64::try_from(DEATHS.len()).unwrap());
    let Some(servers) = Servers::start() else { return };
    let mut stage = Stage::start(servers);
    let (mut random, mut table) = (Random::new(rounds.seed), Table::default());
    for (number, death) in (0..rounds.count).zip(DEATHS.into_iter().cycle()) {
        if number > 0 && number % ROUNDS_A_STORE == 0 {
            // What earlier rounds stored is still there.
            let acknowledged = std::mem::take(&mut stage.acknowledged);
            stage.check(&acknowledged).await;
            println!("{table:?}");
            stage = Stage::start(stage.servers);
        }
        round(&mut stage, death, random.below(u64::MAX), &mut table).await;
    }
    let acknowledged = std::mem::take(&mut stage.acknowledged);
    stage.check(&acknowledged).await;
    println!("{table:?}");
    assert!(table.acknowledged > 0, "events were acknowledged");
}
