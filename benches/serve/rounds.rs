//! The rounds of one run: the rows of the table take turns, and so do the rooms.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll::context::Context;
use backscroll_testkit::{Federation, FederationRequest};
use serde_json::Value;

use crate::{
    Flags,
    children::{Process, Server, cpu},
    generator::{self, Generator, Measured, Target},
    report::{RoomRow, Row},
    requests::{self, BenchRequest, Endpoint},
    rooms::{ASKING, Made, OURS, Plan},
};

/// Requests whose allocations and visited events are counted.
const COUNTED: usize = 50;
/// How long one room is measured in one round.
const ROOM_TURN: Duration = Duration::from_millis(150);

/// Everything that is running.
pub(crate) struct Bench<'a> {
    pub(crate) flags: &'a Flags,
    pub(crate) folder: &'a Path,
    pub(crate) history: &'a Server,
    pub(crate) gateway: &'a Server,
    pub(crate) federation: &'a Federation,
    pub(crate) cx: &'a Arc<Context>,
}

/// A room that the service has loaded.
pub(crate) struct LoadedRoom {
    pub(crate) plan: Plan,
    pub(crate) made: Made,
}

/// One row of the table while it is measured, with one figure of each round.
struct Turns {
    name: &'static str,
    /// `None` for the row that calls the use case in this process.
    generator: Option<Generator>,
    processes: Vec<Process>,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    median: Vec<f64>,
    ninety_ninth: Vec<f64>,
}

/// One room while it is measured.
struct RoomTurns<'a> {
    room: &'a LoadedRoom,
    generator: Generator,
    visited_per_event: f64,
    all: Measured,
    medians: Vec<f64>,
}

/// What the responses of one endpoint allocate.
struct Allocations {
    /// The median number of allocations per response.
    count: u64,
    /// The most memory that one response held, in KiB.
    peak_kib: u64,
}

impl Turns {
    fn new(name: &'static str, generator: Option<Generator>, processes: Vec<Process>) -> Self {
        Self {
            name,
            generator,
            processes,
            per_second: Vec::new(),
            cpu_us: Vec::new(),
            median: Vec::new(),
            ninety_ninth: Vec::new(),
        }
    }
}

impl Bench<'_> {
    /// Sends the same requests to the limit, to the gateway, to the history service and to the use
    /// case, in turns.
    pub(crate) async fn compare(
        &self,
        room: &Made,
        endpoint: Endpoint,
    ) -> anyhow::Result<Vec<Row>> {
        eprintln!("measuring {}", endpoint.name());
        let requests = requests::for_room(room, endpoint, self.flags.seed, self.federation);
        let requests = Arc::new(requests);
        let responses = self.folder.join("responses.json");
        let response_bytes = self.record(&requests, &responses).await?;
        let limit = Server::limit(self.folder, &responses)?;
        let history = self.history.process();
        let gateway = self.gateway.process();
        let generator = |target| {
            let requests = Arc::clone(&requests);
            Some(Generator { target, requests, connections: self.flags.connections })
        };
        let to_limit = generator(Target::Http(limit.address()));
        let to_gateway = generator(Target::Http(self.gateway.address()));
        let to_history = generator(Target::Grpc(self.history.url()));
        let mut rows = [
            Turns::new("limit", to_limit, vec![limit.process()]),
            Turns::new("gateway + history", to_gateway, vec![history.clone(), gateway]),
            Turns::new("history", to_history, vec![history]),
            Turns::new("use case", None, vec![Process::this()]),
        ];
        for _ in 0..self.flags.rounds {
            for row in &mut rows {
                self.turn(row, &requests).await?;
            }
        }
        let allocations = self.allocations(&requests)?;
        let limit = rows.first().map(|it| it.per_second.clone()).unwrap_or_default();
        let row = |it: Turns| Row {
            endpoint: endpoint.name(),
            name: it.name,
            of_the_limit: median(
                it.per_second.iter().zip(&limit).map(|(it, limit)| it / limit).collect(),
            ),
            allocations: it.generator.is_none().then_some(allocations.count),
            peak_kib: it.generator.is_none().then_some(allocations.peak_kib),
            response_kib: response_bytes / 1024.0,
            per_second: median(it.per_second),
            median_us: median(it.median),
            ninety_ninth_us: median(it.ninety_ninth),
            cpu_us: median(it.cpu_us),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Measures half of a turn in a closed loop, and the other half in an open loop at half that
    /// rate.
    async fn turn(&self, row: &mut Turns, requests: &[BenchRequest]) -> anyhow::Result<()> {
        let half = self.flags.turn() / 2;
        let before = cpu(&row.processes)?;
        let measured = match &row.generator {
            Some(generator) => generator.closed(half).await?,
            None => self.in_process(requests, 2, half)?,
        };
        let used = cpu(&row.processes)? - before;
        let count = f64::from(u32::try_from(measured.latencies.len())?.max(1));
        let per_second = count / measured.elapsed.as_secs_f64();
        row.per_second.push(per_second);
        row.cpu_us.push(used.as_secs_f64() * 1e6 / count);
        let mut calm = match &row.generator {
            Some(generator) => generator.open(half, whole(per_second / 2.0)).await?,
            None => self.in_process(requests, 1, half)?,
        };
        row.median.push(calm.percentile(50));
        row.ninety_ninth.push(calm.percentile(99));
        Ok(())
    }

    fn in_process(
        &self,
        requests: &[BenchRequest],
        threads: usize,
        duration: Duration,
    ) -> anyhow::Result<Measured> {
        tokio::task::block_in_place(|| generator::in_process(self.cx, requests, threads, duration))
    }

    /// Sends every request once and writes the responses to a file, for the limit. Returns the
    /// average size of a response in bytes.
    async fn record(&self, requests: &[BenchRequest], to: &Path) -> anyhow::Result<f64> {
        let mut responses = BTreeMap::new();
        let mut bytes = 0;
        for request in requests {
            let content: Option<Value> = serde_json::from_str(&request.content).ok();
            let sent = FederationRequest {
                origin: ASKING,
                destination: OURS,
                method: request.method,
                uri: &request.uri,
                content: content.as_ref(),
            };
            let response = self.federation.send(self.gateway.address(), sent).await;
            ensure!(response.status.is_success(), "{}: {}", request.uri, response.status);
            bytes += response.body.len();
            let key = format!("{}{}", request.uri, request.content);
            responses.insert(key, String::from_utf8(response.body.to_vec())?);
        }
        fs::write(to, serde_json::to_string(&responses)?)?;
        let count = u32::try_from(requests.len())?.max(1);
        Ok(f64::from(u32::try_from(bytes)?) / f64::from(count))
    }

    fn allocations(&self, requests: &[BenchRequest]) -> anyhow::Result<Allocations> {
        let mut counts = Vec::new();
        let mut peak_kib = 0;
        for request in requests.iter().take(COUNTED) {
            let query = request.rpc.query();
            let mut outcome = None;
            let info = allocation_counter::measure(|| {
                outcome = Some(generator::page(self.cx, &query).map(drop));
            });
            outcome.context("the closure ran")??;
            counts.push(info.count_total);
            peak_kib = peak_kib.max(info.bytes_max / 1024);
        }
        counts.sort_unstable();
        Ok(Allocations { count: counts.get(counts.len() / 2).copied().unwrap_or(0), peak_kib })
    }

    /// Measures `/backfill` of every room through both services, one request at a time, in turns.
    pub(crate) async fn rooms(&self, rooms: &[LoadedRoom]) -> anyhow::Result<Vec<RoomRow>> {
        eprintln!("measuring every room");
        let mut measured = Vec::new();
        for room in rooms {
            let requests = requests::for_room(
                &room.made,
                Endpoint::Backfill,
                self.flags.seed,
                self.federation,
            );
            let visited_per_event = self.visited_per_event(&requests)?;
            let generator = Generator {
                target: Target::Http(self.gateway.address()),
                requests: Arc::new(requests),
                connections: 1,
            };
            measured.push(RoomTurns {
                room,
                generator,
                visited_per_event,
                all: Measured::default(),
                medians: Vec::new(),
            });
        }
        for _ in 0..self.flags.rounds * 2 {
            for it in &mut measured {
                let mut turn = it.generator.closed(ROOM_TURN).await?;
                it.medians.push(turn.percentile(50));
                it.all.latencies.append(&mut turn.latencies);
            }
        }
        let row = |mut it: RoomTurns<'_>| RoomRow {
            name: it.room.plan.name.clone(),
            shape: it.room.plan.shape,
            size: it.room.plan.size,
            events: it.room.made.events,
            visited_per_event: it.visited_per_event,
            median_us: median(it.medians),
            ninety_ninth_us: it.all.percentile(99),
        };
        Ok(measured.into_iter().map(row).collect())
    }

    /// How many events the walks of some requests visit for each event that they return.
    fn visited_per_event(&self, requests: &[BenchRequest]) -> anyhow::Result<f64> {
        let mut visited = 0;
        let mut served = 0;
        for request in requests.iter().take(COUNTED) {
            let page = generator::page(self.cx, &request.rpc.query())?;
            visited += page.visited;
            served += page.events.len();
        }
        Ok(f64::from(visited) / f64::from(u32::try_from(served)?.max(1)))
    }
}

impl Measured {
    /// A percentile of the latencies, in microseconds.
    fn percentile(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let at = self.latencies.len() * percent / 100;
        self.latencies.get(at).map_or(f64::NAN, |it| it.as_secs_f64() * 1e6)
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The whole part of a rate.
fn whole(rate: f64) -> u32 {
    // A duration of that many seconds converts without a cast.
    let seconds = Duration::try_from_secs_f64(rate).unwrap_or_default();
    u32::try_from(seconds.as_secs()).unwrap_or(u32::MAX)
}
