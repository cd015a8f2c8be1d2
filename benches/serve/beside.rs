//! The history service over a PostgreSQL database, beside sled, in turns of one run: questions with
//! everything in memory and with next to nothing, questions to two processes over the database, and
//! durable appends by many writers.

use std::{fmt, fs, num::NonZero, path::Path, sync::Arc, thread, time::Instant};

use backscroll_testkit::Federation;
use futures_util::future::try_join_all;

use crate::{
    Flags,
    children::Server,
    generator::{Generator, Target},
    load,
    requests::{self, BenchRequest, Endpoint},
    rooms::{self, ASKING, Plan, Shape},
    rounds::median,
};

/// Writers, each with a room and a stream of its own.
const WRITERS: usize = 16;
/// Events that a writer appends in a round.
const EVENTS: usize = 500;
/// Unacknowledged events of one writer.
const IN_FLIGHT: usize = 64;
/// The memory for caches, in MiB, that makes nearly every question read its records.
const COLD_MIB: u64 = 1;

/// What was measured, in one table.
pub(crate) struct Beside {
    rows: Vec<BesideRow>,
}

/// Figures of one kind, each the median over the rounds.
struct BesideRow {
    name: &'static str,
    sled: f64,
    postgres: f64,
    /// Requests to two processes over the same database; `None` where that is not measured.
    two: Option<f64>,
}

/// The same service over each store.
struct Pair {
    sled: Server,
    postgres: Server,
}

impl Pair {
    fn start(folder: &Path, url: &str, cache_mib: u64) -> Self {
        let sled = format!("sled:{}", folder.join("data").display());
        Self {
            sled: Server::history_over(&sled, cache_mib, &folder.join("sled.log")),
            postgres: Server::history_over(url, cache_mib, &folder.join("postgres.log")),
        }
    }

    fn stop(self) -> anyhow::Result<()> {
        self.sled.stop()?;
        self.postgres.stop()
    }
}

/// Measures everything.
pub(crate) async fn measure(url: &str, flags: &Flags) -> anyhow::Result<Beside> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = folder.path();
    fs::create_dir_all(folder)?;
    Server::prepare(url)?;
    let servers = Pair::start(folder, url, flags.cache_mib);
    let mut rows = vec![appends(&servers, flags).await?];
    let plan = Plan { name: "beside".to_owned(), shape: Shape::Line, size: flags.events };
    eprintln!("loading {} events into each store", flags.events);
    let made = load::load(&servers.sled.url(), plan.clone(), flags.seed).await?;
    load::load(&servers.postgres.url(), plan, flags.seed).await?;
    let federation = Federation::new([rooms::signer(ASKING)]);
    let questions =
        |endpoint| Arc::new(requests::for_room(&made, endpoint, flags.seed, &federation));
    let second = Server::history_over(url, flags.cache_mib, &folder.join("second.log"));
    let [backfill, missing] = [Endpoint::Backfill, Endpoint::GetMissingEvents].map(questions);
    rows.push(turns("backfill 100, warm", &servers, Some(&second), &backfill, flags).await?);
    rows.push(
        turns("get_missing_events 20, warm", &servers, Some(&second), &missing, flags).await?,
    );
    servers.stop()?;
    second.stop()?;
    let servers = Pair::start(folder, url, COLD_MIB);
    rows.push(turns("backfill 100, cold", &servers, None, &backfill, flags).await?);
    rows.push(turns("get_missing_events 20, cold", &servers, None, &missing, flags).await?);
    servers.stop()?;
    Ok(Beside { rows })
}

/// Durable appends of many writers, each to a room of its own.
async fn appends(servers: &Pair, flags: &Flags) -> anyhow::Result<BesideRow> {
    let [mut sled, mut postgres] = [Vec::new(), Vec::new()];
    for round in 0..flags.rounds {
        eprintln!("appending, round {round}");
        for (server, figures) in [(&servers.sled, &mut sled), (&servers.postgres, &mut postgres)] {
            let url = server.url();
            let start = Instant::now();
            let writers = (0..WRITERS).map(|writer| {
                let name = format!("append-{round}-{writer}");
                let plan = Plan { name, shape: Shape::Line, size: EVENTS };
                load::timed(&url, plan, IN_FLIGHT)
            });
            let loaded = try_join_all(writers).await?;
            // The rooms are made first, by all writers at the same time.
            let longest = loaded.iter().map(|it| it.elapsed).max().unwrap_or(start.elapsed());
            let events: u32 = loaded.iter().map(|it| it.made.events).sum();
            figures.push(f64::from(events) / longest.as_secs_f64());
        }
    }
    let name = "events appended, 16 writers";
    Ok(BesideRow { name, sled: median(sled), postgres: median(postgres), two: None })
}

/// Questions to each service in turns.
async fn turns(
    name: &'static str,
    servers: &Pair,
    second: Option<&Server>,
    requests: &Arc<Vec<BenchRequest>>,
    flags: &Flags,
) -> anyhow::Result<BesideRow> {
    eprintln!("measuring {name}");
    let [mut sled, mut postgres, mut two] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..flags.rounds {
        sled.push(rate(&[&servers.sled], requests, flags).await?);
        postgres.push(rate(&[&servers.postgres], requests, flags).await?);
        if let Some(second) = second {
            two.push(rate(&[&servers.postgres, second], requests, flags).await?);
        }
    }
    let two = second.map(|_| median(two));
    Ok(BesideRow { name, sled: median(sled), postgres: median(postgres), two })
}

/// Requests a second, with the connections spread over some services.
async fn rate(
    servers: &[&Server],
    requests: &Arc<Vec<BenchRequest>>,
    flags: &Flags,
) -> anyhow::Result<f64> {
    let connections = flags.connections / servers.len();
    let generators: Vec<Generator> = servers
        .iter()
        .map(|it| Generator {
            target: Target::Grpc(it.url()),
            requests: Arc::clone(requests),
            connections,
        })
        .collect();
    let measured = try_join_all(generators.iter().map(|it| it.closed(flags.turn()))).await?;
    let rates = measured.iter().map(|it| {
        let count = u32::try_from(it.latencies.len()).unwrap_or(u32::MAX);
        f64::from(count) / it.elapsed.as_secs_f64()
    });
    Ok(rates.sum())
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        writeln!(f, "{cores} cores for the services, the database and the load generator")?;
        writeln!(
            f,
            "{:<30}{:>10}{:>12}{:>8}{:>16}{:>14}",
            "a second", "sled", "PostgreSQL", "ratio", "two processes", "ratio to one"
        )?;
        for BesideRow { name, sled, postgres, two } in &self.rows {
            write!(f, "{name:<30}{sled:>10.0}{postgres:>12.0}{:>8.2}", postgres / sled)?;
            if let Some(two) = two {
                write!(f, "{two:>16.0}{:>14.2}", two / postgres)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
