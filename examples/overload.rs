//! What becomes of the service when ten times as much is asked as it can answer.
//!
//! Both services on real sockets and those who ask, in one process: the figures are ratios, worth
//! something only beside each other. First the most that can be answered, everybody waiting for
//! the answer before asking again; then ten times that, asked whether there are answers or not.
//! Exit code 1 if a goal is missed.
//!
//! `cargo run --release --example overload` (`-- SECONDS` for longer than 10 each)

use std::{
    fs::{self, File},
    io::BufReader,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll::{
    context::Context,
    ingest::{self, NewEvent, Verdict},
    room_format::{Line, Reader},
    server,
    store::Options,
    telemetry::{self, LogFormat, Logs},
};
use backscroll_gateway::{keys::PinnedKeys, server::Options as GatewayOptions};
use federation::{Federation, Question};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};

#[path = "../tests/it/support/federation.rs"]
mod federation;

const ROOM: &str = "visibility-v12";
const ORIGIN: &str = "hs2.example:9102";
const DESTINATION: &str = "hs1.example:9101";
/// Connections that find the most that can be answered.
const CLOSED: usize = 32;
/// Connections that ask too much.
const OPEN: usize = 1_500;
const TIMES: f64 = 10.0;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What came of one part.
#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _traces =
        telemetry::start("overload", Logs { format: LogFormat::Text, filter: "error" }, None)?;
    let seconds = std::env::args().nth(1).map_or(Ok(10), |it| it.parse())?;
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let data_dir = tempfile::tempdir()?;
    let options = Options { cache_bytes: 64 << 20, ..Options::small(data_dir.path()) };
    let cx = server::open(&options)?;
    let (room_id, event_ids) = load(&cx, &rooms.join(ROOM).join("room.ndjson"))?;
    let gateway = start(&cx, &fs::read(rooms.join("server-keys.json"))?).await?;
    let signing_keys = fs::read_to_string(rooms.join("signing-keys.json"))?;
    let federation = Federation::new(&signing_keys);
    let questions = questions(&room_id, &event_ids);
    let first = question(questions.first().context("the room has events")?);
    let answer = federation.ask(gateway, first).await;
    ensure!(answer.status.is_success(), "{}: {:?}", answer.status, answer.body);
    let requests = Arc::new(signed(&federation, &questions));

    ask(gateway, &requests, (CLOSED, None), Duration::from_secs(1)).await;
    let part = Duration::from_secs(seconds);
    let before = ask(gateway, &requests, (CLOSED, None), part).await;
    let per_second = |count: &AtomicU64| -> anyhow::Result<f64> {
        Ok(f64::from(u32::try_from(count.load(Ordering::Relaxed))?) / part.as_secs_f64())
    };
    let peak = per_second(&before.answered)?;
    println!("at most        {peak:.0} answers a second, {CLOSED} connections that wait");
    let resident = resident_kib()?;
    let during = ask(gateway, &requests, (OPEN, Some(peak * TIMES)), part).await;
    let grown = resident_kib()?.saturating_sub(resident);
    let (goodput, refused) = (per_second(&during.answered)?, per_second(&during.refused)?);
    let failed = during.failed.load(Ordering::Relaxed);
    println!("asked for      {:.0} a second, {OPEN} connections", peak * TIMES);
    println!("answered       {goodput:.0} a second, {refused:.0} refused, {failed} failed in all");
    println!("goodput/peak   {:.2}   (goal: at least 0.80)", goodput / peak);
    let late = during.late.load(Ordering::Relaxed);
    println!("late answers   {late}   (goal: 0; the deadline is {} s)", DEADLINE.as_secs());
    println!("memory grown   {} MiB, those who ask included", grown / 1_024);
    ensure!(goodput >= 0.8 * peak && late == 0 && failed == 0, "a goal is missed");
    Ok(())
}

fn load(cx: &Context, path: &Path) -> anyhow::Result<(String, Vec<String>)> {
    let (header, lines) = Reader::open(BufReader::new(File::open(path)?))?;
    let mut event_ids = Vec::new();
    for line in lines {
        let Line { event_id, pdu, outlier, rejected, soft_failed, state_after } = line?;
        let event = NewEvent {
            room_id: &header.room_id,
            room_version: &header.room_version,
            event_id: &event_id,
            pdu: pdu.get().as_bytes(),
            verdict: Verdict { outlier, rejected, soft_failed },
            state_after: &state_after,
            arrival: None,
        };
        ingest::append(cx, &event)?;
        event_ids.push(event_id);
    }
    Ok((header.room_id, event_ids))
}

/// Starts both; they end with the process.
async fn start(cx: &Arc<Context>, server_keys: &[u8]) -> anyhow::Result<SocketAddr> {
    let history = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = TcpListener::bind("127.0.0.1:0").await?;
    let address = gateway.local_addr()?;
    let url = format!("http://{}", history.local_addr()?).parse()?;
    let mut options = GatewayOptions {
        keys: PinnedKeys::from_json(server_keys)?,
        request_timeout: DEADLINE,
        ..GatewayOptions::new(DESTINATION.parse()?, url)
    };
    // All of it comes from one machine and one server: what is measured is the whole.
    options.limits.max_per_address = options.limits.max_connections;
    (options.limits.server_rate, options.limits.server_burst) = (10_000_000, 10_000_000);
    let never = std::future::pending();
    tokio::spawn(server::serve(Arc::clone(cx), history, DEADLINE, never));
    tokio::spawn(backscroll_gateway::server::serve(gateway, options, std::future::pending()));
    Ok(address)
}

/// What is asked, each about other events, so that few are the same at the same time.
fn questions(room_id: &str, event_ids: &[String]) -> Vec<String> {
    let room = utf8_percent_encode(room_id, NON_ALPHANUMERIC).to_string();
    let uri = |limit, event_id: &String| {
        let event = utf8_percent_encode(event_id, NON_ALPHANUMERIC);
        format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit={limit}")
    };
    (1..=40)
        .flat_map(|limit| event_ids.iter().map(move |it| (limit, it)))
        .map(|(limit, it)| uri(limit, it))
        .collect()
}

fn question(uri: &str) -> Question<'_> {
    Question { origin: ORIGIN, destination: DESTINATION, method: "GET", uri, content: None }
}

/// The requests as bytes.
fn signed(federation: &Federation, questions: &[String]) -> Vec<String> {
    let sign = |uri: &String| {
        let authorization = federation.authorization(question(uri));
        format!("GET {uri} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n")
    };
    questions.iter().map(sign).collect()
}

/// Asks on so many connections for so long: each as soon as it has its answer, or all together so
/// many a second.
async fn ask(
    gateway: SocketAddr,
    requests: &Arc<Vec<String>>,
    (connections, rate): (usize, Option<f64>),
    part: Duration,
) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let mut asking = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(200);
    for nth in 0..connections {
        let (requests, counts) = (Arc::clone(requests), Arc::clone(&counts));
        asking.spawn(async move {
            let each = rate.map(|rate| {
                Duration::from_secs_f64(f64::from(u32::try_from(connections).unwrap_or(1)) / rate)
            });
            // A prime, so that the connections go through the requests at distances.
            let mut at = nth * 7_919;
            let mut next = start;
            while next < start + part {
                let Ok(stream) = TcpStream::connect(gateway).await else {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut stream = BufStream::new(stream);
                while next < start + part {
                    time::sleep_until(next).await;
                    at += 1;
                    let Some(request) = requests.get(at % requests.len()) else { return };
                    let asked = Instant::now();
                    let answer = time::timeout(3 * DEADLINE, exchange(&mut stream, request)).await;
                    let counted = match answer {
                        Ok(Ok(200)) if asked.elapsed() > DEADLINE => &counts.late,
                        Ok(Ok(200)) => &counts.answered,
                        Ok(Ok(429)) => &counts.refused,
                        _ => &counts.failed,
                    };
                    counted.fetch_add(1, Ordering::Relaxed);
                    let now = Instant::now();
                    // What could not be asked in time is not asked later.
                    next = each.map_or(now, |each| (next + each).max(now));
                    if !matches!(answer, Ok(Ok(_))) {
                        break;
                    }
                }
            }
        });
    }
    asking.join_all().await;
    counts
}

/// One request and the status of its answer.
async fn exchange(stream: &mut BufStream<TcpStream>, request: &str) -> anyhow::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(status)
}

/// Memory of this process.
fn resident_kib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
