//! What becomes of the services when ten times as much is asked as they can answer.
//!
//! Both services on real sockets in a process of their own, those who ask in another; each has half
//! of the cores, so that asking takes nothing from answering. First the most that can be answered,
//! everybody waiting for the answer before asking again; then connections that together want to ask
//! ten times that, whatever they hear. The two take turns, and only the ratio is worth something.
//! Exit code 1 if a goal is missed.
//!
//! `cargo run --release --example overload` (`-- SECONDS CONNECTIONS RATE` for
//! others than 5 a part, 3,000, and the gateway's own limit)

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll::room_format::Reader;
use backscroll_testkit::{Federation, FederationRequest};
use mimalloc::MiMalloc;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

mod ask;
mod serve;

/// That of the programs.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ROOM: &str = "visibility-v12";
const ORIGIN: &str = "hs2.example:9102";
const DESTINATION: &str = "hs1.example:9101";
/// Connections that find the most that can be answered.
const CLOSED: u32 = 32;
/// Connections that ask too much.
const OPEN: u32 = 3_000;
const TIMES: f64 = 10.0;
/// How often the two parts take turns.
const ROUNDS: u32 = 3;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |nth: usize| arguments.get(nth).map(|it| it.parse::<u32>()).transpose();
    let serves = arguments.first().is_some_and(|it| it == "serve");
    keep_to_half_of_the_cores(serves)?;
    // After that: the runtime has as many threads as it sees cores.
    let runtime = tokio::runtime::Runtime::new()?;
    if serves {
        return runtime.block_on(serve::serve(number(1)?));
    }
    let services = Services::start(arguments.get(2))?;
    let part = Duration::from_secs(number(0)?.unwrap_or(5).into());
    let connections = number(1)?.unwrap_or(OPEN);
    runtime.block_on(measure(&services, part, connections))
}

/// On one core, all have that one.
fn keep_to_half_of_the_cores(first_half: bool) -> anyhow::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|it| allowed.is_set(*it)).collect();
    let (first, second) = cores.split_at(cores.len() / 2);
    let mut mine = CpuSet::new();
    let half = if first_half { first } else { second };
    half.iter().for_each(|it| mine.set(*it));
    if !first.is_empty() {
        sched_setaffinity(None, &mine)?;
    }
    Ok(())
}

fn rooms() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms")
}

/// The other process.
struct Services {
    child: Child,
    gateway: SocketAddr,
}

impl Services {
    fn start(refusal_rate: Option<&String>) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("serve")
            .args(refusal_rate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let gateway = line.trim().parse().context("the services did not start")?;
        Ok(Self { child, gateway })
    }

    /// What the process has had of the cores.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no fields")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|it| it.parse::<u64>().ok())
            .sum();
        // Linux counts in hundredths of a second, whatever the machine.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The most memory it has had.
    fn peak_mib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1_024)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Of all rounds of one part.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    answered: f64,
    refused: f64,
    late: f64,
    failed: f64,
    cpu: f64,
}

impl Sum {
    fn add(&mut self, counts: &ask::Counts, cpu: Duration) -> anyhow::Result<()> {
        let count = |it: &std::sync::atomic::AtomicU64| -> anyhow::Result<f64> {
            Ok(u32::try_from(it.load(Ordering::Relaxed))?.into())
        };
        self.answered += count(&counts.answered)?;
        self.refused += count(&counts.refused)?;
        self.late += count(&counts.late)?;
        self.failed += count(&counts.failed)?;
        self.cpu += cpu.as_secs_f64();
        Ok(())
    }
}

async fn measure(services: &Services, part: Duration, connections: u32) -> anyhow::Result<()> {
    let signing_keys = fs::read_to_string(rooms().join("signing-keys.json"))?;
    let federation = Federation::from_json(&signing_keys);
    let questions = questions()?;
    let first = question(questions.first().context("the room has events")?);
    let answer = federation.send(services.gateway, first).await;
    ensure!(answer.status.is_success(), "{}: {:?}", answer.status, answer.body);
    let requests = Arc::new(signed(&federation, &questions));
    let ask =
        async |of, part| ask::ask(services.gateway, &requests, of, part, || services.cpu()).await;
    ask((CLOSED, None), Duration::from_secs(1)).await?;

    let (mut closed, mut open) = (Sum::default(), Sum::default());
    let (mut before, mut wanted) = (0, 0.0);
    for round in 0..ROUNDS {
        let (counts, cpu) = ask((CLOSED, None), part).await?;
        closed.add(&counts, cpu)?;
        if round == 0 {
            before = services.peak_mib()?;
        }
        let rate = closed.answered / f64::from(round + 1) / part.as_secs_f64() * TIMES;
        wanted += rate * part.as_secs_f64();
        let (counts, cpu) = ask((connections, Some(rate)), part).await?;
        open.add(&counts, cpu)?;
    }
    report(part, connections, (closed, open), wanted);
    println!("memory         at most {} MiB, {before} before", services.peak_mib()?);
    let goodput = open.answered / closed.answered;
    ensure!(goodput >= 0.8 && open.late + open.failed == 0.0, "a goal is missed");
    Ok(())
}

fn report(part: Duration, connections: u32, (closed, open): (Sum, Sum), wanted: f64) {
    let seconds = part.as_secs_f64() * f64::from(ROUNDS);
    let rate = |count: f64| count / seconds;
    let Sum { answered, refused, late, failed, cpu } = open;
    let each = closed.cpu / closed.answered;
    println!("at most        {:.0} answers a second, {CLOSED} connections", rate(closed.answered));
    println!("CPU            {:.0} µs an answer, {:.2} of a core", each * 1e6, rate(closed.cpu));
    println!("wanted         {:.0} a second, {connections} connections", rate(wanted));
    let asked = answered + refused + late + failed;
    println!("asked          {:.0}; for the others no connection was free", rate(asked));
    println!("answered       {:.0}, refused {:.0}", rate(answered), rate(refused));
    let refusing = (cpu - each * answered).max(0.0) / refused.max(1.0);
    println!("CPU            {:.0} µs a refusal, {:.2} of a core", refusing * 1e6, rate(cpu));
    println!("goodput/peak   {:.2}   (goal: at least 0.80)", answered / closed.answered);
    println!("late, failed   {late}, {failed}   (goal: 0; the deadline is {DEADLINE:?})");
}

/// What is asked, each about other events, so that few are the same at the same time.
fn questions() -> anyhow::Result<Vec<String>> {
    let file = fs::File::open(rooms().join(ROOM).join("room.ndjson"))?;
    let (header, lines) = Reader::open(BufReader::new(file))?;
    let room = utf8_percent_encode(&header.room_id, NON_ALPHANUMERIC).to_string();
    let event_ids = lines.map(|it| Ok(it?.event_id)).collect::<anyhow::Result<Vec<_>>>()?;
    let uri = |limit, event_id: &String| {
        let event = utf8_percent_encode(event_id, NON_ALPHANUMERIC);
        format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit={limit}")
    };
    Ok((1..=40).flat_map(|limit| event_ids.iter().map(move |it| uri(limit, it))).collect())
}

fn question(uri: &str) -> FederationRequest<'_> {
    FederationRequest {
        origin: ORIGIN,
        destination: DESTINATION,
        method: "GET",
        uri,
        content: None,
    }
}

/// The requests as bytes.
fn signed(federation: &Federation, questions: &[String]) -> Vec<String> {
    let sign = |uri: &String| {
        let authorization = federation.authorization(question(uri));
        format!("GET {uri} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n")
    };
    questions.iter().map(sign).collect()
}
