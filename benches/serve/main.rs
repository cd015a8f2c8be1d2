//! How fast Backscroll is: both programs on real sockets, in processes of their own, compared with
//! the limit of what this machine could serve at all.
//!
//! ```text
//! cargo bench --bench serve                    takes a minute or two
//! cargo bench --bench serve -- --help          larger rooms, longer rounds, JSON, a plot
//! ```
//!
//! Machines are noisy. What is compared therefore takes turns in short rounds of one run, and the
//! figures are medians over the rounds. Only ratios within one run mean anything.

mod beside;
mod children;
mod generator;
mod ingest;
mod limit;
mod load;
mod plot;
mod report;
mod requests;
mod rooms;
mod rounds;

use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use backscroll_testkit::{
    Federation,
    folder::{copy, disk_bytes},
};
use clap::Parser;

use self::{
    children::Server,
    report::{Loaded, Plotted, PlottedRoom, Report},
    requests::Endpoint,
    rooms::{ASKING, Plan, Shape},
    rounds::LoadedRoom,
};

/// Measures Backscroll on this machine.
#[derive(Debug, Parser)]
struct Flags {
    /// Rounds; in each, everything takes its turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Events of the room that measures ingest; 0 skips the measurement.
    #[arg(long, default_value_t = 10_000)]
    ingest: usize,
    /// Events of the largest room.
    #[arg(long, default_value_t = 10_000)]
    events: usize,
    /// Members of the room with the most members.
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// The history service's --cache-mib.
    #[arg(long, default_value_t = 256)]
    cache_mib: u64,
    /// The seed of everything that looks random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A gateway that is built already; without this flag the current one is built first.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Measure only this: the history service over an empty PostgreSQL database, beside sled. Needs a
    /// role that may make tables.
    #[arg(long, value_name = "URL")]
    beside: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Draw latency against room size and members into an SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// With --plot: draw the `rooms` of this JSON report and measure nothing.
    #[arg(long, value_name = "FILE", requires = "plot")]
    plot_from: Option<PathBuf>,
    /// Passed by cargo bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Some(responses) = env::var_os(children::LIMIT_VARIABLE) {
        return limit::serve(&PathBuf::from(responses)).await;
    }
    let flags = Flags::parse().or_least();
    if let (Some(from), Some(to)) = (&flags.plot_from, &flags.plot) {
        let plotted: Plotted = serde_json::from_slice(&fs::read(from)?)?;
        return plot::draw(&plotted.rooms, to);
    }
    if let Some(url) = &flags.beside {
        println!("{}", beside::measure(url, &flags).await?);
        return Ok(());
    }
    let report = measure(&flags).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(path) = &flags.plot {
        let rooms: Vec<PlottedRoom> = report.rooms.iter().map(PlottedRoom::from).collect();
        plot::draw(&rooms, path)?;
    }
    Ok(())
}

async fn measure(flags: &Flags) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut report = Report::default();
    if flags.ingest > 0 {
        report.ingest = Some(ingest::measure(&folder.path().join("ingest"), flags).await?);
    }

    // One service loads all rooms. The rows without a socket use a copy of its store.
    let main = folder.path().join("main");
    fs::create_dir_all(&main)?;
    let history = Server::history(&main, flags.cache_mib);
    let mut rooms = Vec::new();
    for plan in plans(flags) {
        eprintln!("loading {}", plan.name);
        let made = load::load(&history.url(), plan.clone(), flags.seed).await?;
        rooms.push(LoadedRoom { plan, made });
    }
    let while_loading = history.process().memory()?;
    history.stop()?;
    let disk_bytes = disk_bytes(&main)?;
    let copied = folder.path().join("copy");
    copy(&main.join("data"), &copied)?;
    let history = Server::history(&main, flags.cache_mib);
    report.loaded = Loaded {
        events: rooms.iter().map(|it| it.made.events).sum(),
        json_bytes: rooms.iter().map(|it| it.made.json_bytes).sum(),
        disk_bytes,
        highest_kib: while_loading.highest,
        opened_kib: history.process().memory()?.now,
        serving_kib: 0,
    };
    let gateway = Server::gateway(&main, &history, flags.gateway.as_deref())?;
    let options = Options { cache_bytes: flags.cache_mib << 20, ..Options::small(&copied) };
    let cx = Arc::new(Context::new(Store::open(&options)?));
    let federation = Federation::new([rooms::signer(ASKING)]);

    let bench = rounds::Bench {
        flags,
        folder: &main,
        history: &history,
        gateway: &gateway,
        federation: &federation,
        cx: &cx,
    };
    let is_usual = |it: &&LoadedRoom| it.plan.shape == Shape::Line && it.plan.size >= 1_000;
    if let Some(room) = rooms.iter().find(is_usual) {
        for endpoint in [Endpoint::Backfill, Endpoint::GetMissingEvents] {
            report.rows.extend(bench.compare(&room.made, endpoint).await?);
        }
    }
    report.rooms = bench.rooms(&rooms).await?;
    report.loaded.serving_kib = history.process().memory()?.now;
    Ok(report)
}

impl Flags {
    /// Without `--bench`, which `cargo test` does not pass, the least of everything: enough to see
    /// that the program works.
    fn or_least(self) -> Self {
        if self.bench {
            return self;
        }
        Self { rounds: 1, seconds: 0.1, ingest: 300, events: 1_000, members: 10, ..self }
    }

    fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// The rooms: sizes in powers of ten up to the largest, and one room of each other shape.
fn plans(flags: &Flags) -> Vec<Plan> {
    let plan = |shape, size| Plan { name: format!("{shape:?}-{size}").to_lowercase(), shape, size };
    let powers = |from: usize, to| {
        std::iter::successors(Some(from), |it| it.checked_mul(10)).take_while(move |it| *it <= to)
    };
    let lines = powers(1_000, flags.events).map(|size| plan(Shape::Line, size));
    let members = powers(10, flags.members).map(|size| plan(Shape::Members, size));
    let others = [plan(Shape::Braid, 2_000), plan(Shape::Large, 200)];
    lines.chain(members).chain(others).collect()
}
