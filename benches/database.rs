//! One history service over sled, one over PostgreSQL, and two over the same PostgreSQL, in one run on
//! one machine. Needs PostgreSQL; without it a line says so.
//!
//! ```text
//! cargo bench --bench database
//! cargo bench --bench database -- --rounds 5 --seconds 3
//! ```
//!
//! What is compared takes turns in short rounds, and the figures are medians over the rounds. Only
//! ratios within one run mean anything. All programs share the cores of the machine, and so does the
//! load generator.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backscroll::proto::v1::{
    self as pb, append_events_response::Outcome, history_service_client::HistoryServiceClient,
    ingest_service_client::IngestServiceClient,
};
use backscroll_testkit::{
    Event, Program, Room,
    postgres::{Postgres, Setup},
};
use clap::Parser;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

const ALICE: &str = "@alice:one.example";
/// How many writers and how many readers there are at the same time.
const CALLERS: usize = 16;
/// Events of the room that is read.
const EVENTS: usize = 5_000;
/// Different questions: they begin at events that are this far apart.
const APART: usize = 20;

/// Compares engines on this machine.
#[derive(Clone, Debug, Parser)]
struct Flags {
    /// Rounds; in each, everything takes its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Passed by cargo bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is compared: a store, and how many services are over it.
struct Contender {
    name: &'static str,
    place: String,
    services: usize,
    room: Arc<Vec<String>>,
    /// The rooms of the writers so far.
    writers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut flags = Flags::parse();
    if !flags.bench {
        // Enough to see that the program works.
        flags = Flags { rounds: 1, seconds: 0.1, ..flags };
    }
    let Some(postgres) = Postgres::start_with(&Setup::durable().on_disk()) else { return Ok(()) };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut contenders = Vec::new();
    for (name, services) in [("sled", 1), ("PostgreSQL", 1), ("PostgreSQL, two services", 2)] {
        let place = if name == "sled" {
            format!("sled:{}", folder.path().join("sled").display())
        } else {
            prepare(&postgres, &format!("services{services}"))?
        };
        contenders.push(Contender::load(name, place, services).await?);
    }
    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for _ in 0..flags.rounds {
        for (contender, it) in contenders.iter_mut().enumerate() {
            for (figure, rate) in it.turn(&flags).await?.into_iter().enumerate() {
                figures.entry((figure, contender)).or_default().push(rate);
            }
        }
    }
    print(&contenders, figures);
    Ok(())
}

/// Makes an empty store in a database of its own.
fn prepare(postgres: &Postgres, database: &str) -> anyhow::Result<String> {
    postgres.sql("postgres", &format!("create database {database}"));
    let place = postgres.tcp_url("owner", database);
    let mut prepare = Command::new(env!("CARGO_BIN_EXE_backscroll"));
    let prepared = prepare.env_clear().args(["prepare", "--store", &place]).output()?;
    ensure!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    Ok(place)
}

fn print(contenders: &[Contender], mut figures: BTreeMap<(usize, usize), Vec<f64>>) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {CALLERS} callers at the same time; medians, a second");
    let mut median = |figure, contender| {
        let rates = figures.entry((figure, contender)).or_default();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    };
    let names =
        ["durable appends, one event each", "backfills of 100, cold", "backfills of 100, warm"];
    for (figure, name) in names.into_iter().enumerate() {
        println!("{name}");
        let rates: Vec<f64> = (0..contenders.len()).map(|it| median(figure, it)).collect();
        let [sled, one, two] = rates[..] else { return };
        println!("  sled {sled:9.0}");
        println!("  PostgreSQL {one:9.0}, {:.2} of sled", one / sled);
        println!("  PostgreSQL, two services {two:9.0}, {:.2} of one", two / one);
    }
}

impl Contender {
    /// Stores the room that is read.
    async fn load(name: &'static str, place: String, services: usize) -> anyhow::Result<Self> {
        let (room, create) = Room::named("10", ALICE, "read");
        let join = room.member(ALICE, ALICE, "join").after([&create]).finish();
        let mut events = vec![create, join];
        while events.len() < EVENTS {
            let text = format!("message {}, with some words as people write them", events.len());
            events.push(room.message(ALICE, &text).after(events.last()).finish());
        }
        let mut contender = Self { name, place, services: 1, room: Arc::default(), writers: 0 };
        let started = contender.start();
        let mut urls = started.iter().map(Program::url);
        let mut ingest = IngestServiceClient::connect(urls.next().unwrap_or_default()).await?;
        let requests: Vec<_> = events.iter().map(|it| request(&room, it)).collect();
        let mut answers = ingest.append_events(tokio_stream::iter(requests)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            ensure!(matches!(answer.outcome, Some(Outcome::Appended(_))), "{answer:?}");
        }
        let starts = events.iter().step_by(APART).skip(10).map(|it| it.event_id.clone());
        contender.room = Arc::new(starts.collect());
        contender.services = services;
        Ok(contender)
    }

    fn start(&self) -> Vec<Program> {
        let start = |_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
            command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--reserved-mib", "16"]);
            command.args(["--store", &self.place]);
            Program::start(command)
        };
        (0..self.services).map(start).collect()
    }

    /// The rates of one turn, over services that have just been started.
    async fn turn(&mut self, flags: &Flags) -> anyhow::Result<[f64; 3]> {
        let turn = Duration::from_secs_f64(flags.seconds);
        let services = self.start();
        // Each question once; then again and again.
        let cold = self.read(&services, Duration::ZERO).await.context(self.name)?;
        let warm = self.read(&services, turn).await.context(self.name)?;
        let appended = self.append(&services, turn).await.context(self.name)?;
        Ok([appended, cold, warm])
    }

    /// Asks all questions, and goes on asking them for some time; returns answers a second.
    async fn read(&self, services: &[Program], turn: Duration) -> anyhow::Result<f64> {
        let mut readers = JoinSet::new();
        let begun = Instant::now();
        for (reader, service) in services.iter().cycle().take(CALLERS).enumerate() {
            let url = service.url();
            let starts = Arc::clone(&self.room);
            readers.spawn(async move {
                let mut history = HistoryServiceClient::connect(url).await?;
                let mut asked = 0_u32;
                loop {
                    for start in starts.iter().skip(reader).step_by(CALLERS) {
                        let request = pb::BackfillRequest {
                            room_id: "!read:one.example".to_owned(),
                            event_ids: vec![start.clone()],
                            limit: Some(100),
                            ..pb::BackfillRequest::default()
                        };
                        let answer = history.backfill(request).await?.into_inner();
                        ensure!(answer.event_ids.len() == 100, "{} events", answer.event_ids.len());
                        asked += 1;
                    }
                    if begun.elapsed() >= turn {
                        return Ok(asked);
                    }
                }
            });
        }
        rate(readers, begun).await
    }

    /// Each writer appends one event after the other to a room of its own; returns events a second.
    async fn append(&mut self, services: &[Program], turn: Duration) -> anyhow::Result<f64> {
        let mut writers = JoinSet::new();
        let begun = Instant::now();
        for service in services.iter().cycle().take(CALLERS) {
            self.writers += 1;
            let url = service.url();
            let (room, create) = Room::named("10", ALICE, &format!("writer{}", self.writers));
            writers.spawn(async move {
                let mut ingest = IngestServiceClient::connect(url).await?;
                let (sender, requests) = mpsc::channel(1);
                let stream = ReceiverStream::new(requests);
                sender.send(request(&room, &create)).await?;
                let mut answers = ingest.append_events(stream).await?.into_inner();
                let (mut last, mut appended) = (create, 0_u32);
                while let Some(answer) = answers.message().await? {
                    ensure!(matches!(answer.outcome, Some(Outcome::Appended(_))), "{answer:?}");
                    appended += 1;
                    if begun.elapsed() >= turn {
                        break;
                    }
                    last = match appended {
                        1 => room.member(ALICE, ALICE, "join").after([&last]).finish(),
                        _ => room.message(ALICE, "a message").after([&last]).finish(),
                    };
                    sender.send(request(&room, &last)).await?;
                }
                Ok(appended)
            });
        }
        rate(writers, begun).await
    }
}

fn request(room: &Room, event: &Event) -> pb::AppendEventsRequest {
    pb::AppendEventsRequest {
        room_id: room.room_id.clone(),
        room_version: room.version.as_str().to_owned(),
        pdu: event.pdu.clone().into(),
        ..pb::AppendEventsRequest::default()
    }
}

async fn rate(mut callers: JoinSet<anyhow::Result<u32>>, begun: Instant) -> anyhow::Result<f64> {
    let mut sum = 0;
    while let Some(count) = callers.join_next().await {
        sum += count??;
    }
    Ok(f64::from(sum) / begun.elapsed().as_secs_f64())
}
