//! The behaviour of both services when they receive ten times the load that they can answer.
//!
//! Both services run on real sockets in a process of their own, the clients in another. Each process
//! has half of the cores, so that the clients take no time from the services. First the example
//! measures the peak, with clients that wait for each response. Then connections together try to send
//! ten times that rate, whatever the responses are. The two phases take turns, and only their ratio
//! means anything. The exit code is 1 if a goal is missed.
//!
//! `cargo run --release --example overload`, with `-- SECONDS CONNECTIONS RATE` for other values than
//! 5 seconds per phase, 3,000 connections, and the gateway's own number of refusals per second.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll::room_format::Reader;
use backscroll_testkit::{Federation, FederationRequest};
use mimalloc::MiMalloc;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::clients::{Counts, Load};

mod clients;
mod serve;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ROOM: &str = "visibility-v12";
const ORIGIN: &str = "hs2.example:9102";
const DESTINATION: &str = "hs1.example:9101";
/// Connections of the phase that measures the peak.
const PEAK_CONNECTIONS: u32 = 32;
/// Connections of the phase with too much load.
const OVERLOAD_CONNECTIONS: u32 = 3_000;
/// How many times the peak the connections try to send.
const FACTOR: f64 = 10.0;
/// How often the two phases take turns.
const ROUNDS: u32 = 3;
/// The time within which a response must be received.
const DEADLINE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |nth: usize| arguments.get(nth).map(|it| it.parse::<u32>()).transpose();
    let serves = arguments.first().is_some_and(|it| it == "serve");
    keep_to_half_of_the_cores(serves)?;
    // The runtime starts afterwards: it has one thread for each core that it may use.
    let runtime = tokio::runtime::Runtime::new()?;
    if serves {
        return runtime.block_on(serve::serve(number(1)?));
    }
    let services = Services::start(arguments.get(2))?;
    let phase = Duration::from_secs(number(0)?.unwrap_or(5).into());
    let connections = number(1)?.unwrap_or(OVERLOAD_CONNECTIONS);
    runtime.block_on(measure(&services, phase, connections))
}

/// Pins this process to the first or the second half of the cores. A single core is shared.
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

/// The process of both services.
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

    /// The processor time that the process has used.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no fields")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|it| it.parse::<u64>().ok())
            .sum();
        // Linux counts in hundredths of a second on every machine.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The highest resident memory of the process.
    fn peak_mib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1_024)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // The process ends when its standard input is closed.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// The sums over all rounds of one phase.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    answered: f64,
    refused: f64,
    late: f64,
    failed: f64,
    cpu: f64,
}

/// The sums of both phases.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    peak: Sum,
    overload: Sum,
    /// Requests that the connections tried to send.
    wanted: f64,
}

impl Sum {
    fn add(&mut self, counts: &Counts, cpu: Duration) -> anyhow::Result<()> {
        let count =
            |it: &AtomicU64| anyhow::Ok(f64::from(u32::try_from(it.load(Ordering::Relaxed))?));
        self.answered += count(&counts.answered)?;
        self.refused += count(&counts.refused)?;
        self.late += count(&counts.late)?;
        self.failed += count(&counts.failed)?;
        self.cpu += cpu.as_secs_f64();
        Ok(())
    }
}

async fn measure(services: &Services, phase: Duration, connections: u32) -> anyhow::Result<()> {
    let signing_keys = fs::read_to_string(rooms().join("signing-keys.json"))?;
    let federation = Federation::from_json(&signing_keys);
    let uris = uris()?;
    let first = request(uris.first().context("the room has no event")?);
    let response = federation.send(services.gateway, first).await;
    ensure!(response.status.is_success(), "{}: {:?}", response.status, response.body);
    let gateway = services.gateway;
    let requests = Arc::new(signed(&federation, &uris));
    let load = |connections, rate, duration| Load {
        gateway,
        requests: Arc::clone(&requests),
        connections,
        rate,
        duration,
    };
    load(PEAK_CONNECTIONS, None, Duration::from_secs(1)).run(|| services.cpu()).await?;

    let mut sums = Sums::default();
    let mut memory_before = 0;
    for round in 0..ROUNDS {
        let peak = load(PEAK_CONNECTIONS, None, phase).run(|| services.cpu()).await?;
        sums.peak.add(&peak.counts, peak.cpu)?;
        if round == 0 {
            memory_before = services.peak_mib()?;
        }
        let rate = sums.peak.answered / f64::from(round + 1) / phase.as_secs_f64() * FACTOR;
        sums.wanted += rate * phase.as_secs_f64();
        let overload = load(connections, Some(rate), phase).run(|| services.cpu()).await?;
        sums.overload.add(&overload.counts, overload.cpu)?;
    }
    report(phase, connections, sums);
    println!("memory         at most {} MiB, {memory_before} before", services.peak_mib()?);
    let Sums { peak, overload, .. } = sums;
    let goodput = overload.answered / peak.answered;
    let is_good = goodput >= 0.8 && overload.late + overload.failed == 0.0;
    ensure!(is_good, "a goal is missed");
    Ok(())
}

fn report(phase: Duration, connections: u32, sums: Sums) {
    let Sums { peak, overload, wanted } = sums;
    let seconds = phase.as_secs_f64() * f64::from(ROUNDS);
    let rate = |count: f64| count / seconds;
    let Sum { answered, refused, late, failed, cpu } = overload;
    let each = peak.cpu / peak.answered;
    let peak_rate = rate(peak.answered);
    println!("peak           {peak_rate:.0} responses per second, {PEAK_CONNECTIONS} connections");
    println!("CPU            {:.0} µs per response, {:.2} of a core", each * 1e6, rate(peak.cpu));
    println!("wanted         {:.0} per second, {connections} connections", rate(wanted));
    let sent = answered + refused + late + failed;
    println!("sent           {:.0}; no connection was free for the others", rate(sent));
    println!("answered       {:.0}, refused {:.0}", rate(answered), rate(refused));
    let refusing = (cpu - each * answered).max(0.0) / refused.max(1.0);
    println!("CPU            {:.0} µs per refusal, {:.2} of a core", refusing * 1e6, rate(cpu));
    println!("goodput/peak   {:.2}   (goal: at least 0.80)", answered / peak.answered);
    println!("late, failed   {late}, {failed}   (goal: 0; the deadline is {DEADLINE:?})");
}

/// The request targets: about different events and limits, so that few requests in flight are equal.
fn uris() -> anyhow::Result<Vec<String>> {
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

fn request(uri: &str) -> FederationRequest<'_> {
    FederationRequest {
        origin: ORIGIN,
        destination: DESTINATION,
        method: "GET",
        uri,
        content: None,
    }
}

/// The signed requests as text.
fn signed(federation: &Federation, uris: &[String]) -> Vec<String> {
    let sign = |uri: &String| {
        let authorization = federation.authorization(request(uri));
        format!("GET {uri} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n")
    };
    uris.iter().map(sign).collect()
}
