//! How fast Backscroll is: both programs on real sockets, in processes of their own, beside the
//! limit of what this machine could do at all.
//!
//! ```text
//! cargo bench --bench serve                    a minute or two
//! cargo bench --bench serve -- --help          larger rooms, longer rounds, JSON, a plot
//! ```
//!
//! Machines are noisy: what is compared takes turns in short rounds of one run, and the figures
//! are medians over the rounds. What counts is the ratios.

#[path = "../../tests/it/support/builder.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests, which use more of it")]
mod builder;
mod children;
mod drive;
#[path = "../../tests/it/support/federation.rs"]
mod federation;
mod limit;
mod load;
mod questions;
mod report;
mod rooms;
mod rounds;
mod writing;

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use clap::Parser;
use serde_json::json;

use self::{
    children::{Process, Server, copy, disk_bytes},
    federation::Federation,
    questions::Endpoint,
    report::{Loaded, Report},
    rooms::{ASKING, KEY_ID, Plan, Shape},
};

/// Measures Backscroll on this machine.
#[derive(Debug, Parser)]
struct Flags {
    /// Rounds in which everything takes its turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connections of the load.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Events of the rooms that ingest is timed with; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    ingest: usize,
    /// Events of the largest room.
    #[arg(long, default_value_t = 10_000)]
    events: usize,
    /// Members of the room with the most.
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// The history service's --cache-mib.
    #[arg(long, default_value_t = 256)]
    cache_mib: u64,
    /// Everything that looks random follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A gateway that is built already; otherwise it is built first.
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Draw latency over room size and members into an SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Said by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Some(answers) = env::var_os(children::ROLE) {
        return limit::serve(&PathBuf::from(answers)).await;
    }
    let flags = Flags::parse().or_least();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut report = Report::default();
    if flags.ingest > 0 {
        report.writing = Some(writing::measure(folder.path(), &flags).await?);
    }

    // All rooms into one service; then a copy of its store for the rows without sockets.
    let main = folder.path().join("main");
    std::fs::create_dir_all(&main)?;
    let history = Server::history(&main, flags.cache_mib)?;
    let (mut made, mut json_bytes) = (Vec::new(), 0);
    for plan in plans(&flags) {
        eprintln!("loading {}", plan.name);
        let room = load::load(&history.url(), plan.clone(), flags.seed).await?;
        json_bytes += room.json_bytes;
        report.loaded.events += room.events;
        made.push((plan, room));
    }
    let while_loading = history.process().memory_kib()?;
    history.stop()?;
    let disk = disk_bytes(&main)?;
    copy(&main.join("data"), &folder.path().join("copy"))?;
    let history = Server::history(&main, flags.cache_mib)?;
    let (opened_kib, _) = history.process().memory_kib()?;
    report.loaded = Loaded {
        json_bytes,
        disk_bytes: disk,
        highest_kib: while_loading.1,
        opened_kib,
        ..report.loaded
    };
    let gateway = Server::gateway(&main, &history, flags.gateway.as_deref())?;
    let options = Options {
        cache_bytes: flags.cache_mib << 20,
        ..Options::small(&folder.path().join("copy"))
    };
    let cx = Arc::new(Context::new(Store::open(&options)?));
    let federation = Federation::new(&signing_keys());

    let bench = rounds::Bench {
        flags: &flags,
        folder: &main,
        history: &history,
        gateway: &gateway,
        federation: &federation,
        cx: &cx,
    };
    let usual = made.iter().find(|(plan, _)| plan.shape == Shape::Line && plan.size >= 1_000);
    if let Some((_, room)) = usual {
        for endpoint in [Endpoint::Backfill, Endpoint::MissingEvents] {
            report.rows.extend(bench.compare(room, endpoint).await?);
        }
    }
    report.rooms = bench.rooms(&made).await?;
    report.loaded.serving_kib = history.process().memory_kib()?.0;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(path) = &flags.plot {
        std::fs::write(path, report.plot()?)?;
    }
    Ok(())
}

impl Flags {
    /// `cargo test` only wants to see that it works: the least of everything.
    fn or_least(self) -> Self {
        if self.bench {
            return self;
        }
        let (rounds, seconds, ingest) = (1, 0.1, 300);
        Self { rounds, seconds, ingest, events: 1_000, members: 10, ..self }
    }

    fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// The rooms: sizes in powers of ten up to the largest, and one of every other shape.
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

fn signing_keys() -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    let seed = STANDARD_NO_PAD.encode(rooms::signing_key().to_bytes());
    json!({ASKING: {"key_id": KEY_ID, "signing_seed_base64": seed}}).to_string()
}

/// The processor time that some processes take while something is done.
fn cpu(processes: &[Process]) -> anyhow::Result<Duration> {
    processes.iter().map(Process::cpu).sum()
}
