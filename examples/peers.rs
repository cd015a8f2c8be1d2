//! Other homeservers: each sends signed requests, one after another, each over a new connection. A
//! peer does what homeservers do when a gateway is unavailable: it sends the request again, to the
//! next gateway. `docker/prove` and `docker/rolling` run it during a restart.
//!
//! Runs until Ctrl-C or for `--seconds`, then prints one JSON object. The exit code is 1 if a request
//! failed: a gateway accepted it and gave no correct response, or no gateway accepted it in
//! `--tries`.

use std::{
    fs::{self, File},
    io::{BufReader, Error, ErrorKind},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll::room_format::Reader;
use backscroll_testkit::{Federation, FederationRequest};
use clap::Parser;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a peer waits for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends signed /backfill requests to gateways.
#[derive(Debug, Parser)]
struct Args {
    /// A gateway; several are used in turn.
    #[arg(long = "gateway", required = true)]
    gateways: Vec<SocketAddr>,
    /// A room in the room format; the requests are about its last event.
    #[arg(long)]
    room: PathBuf,
    /// The keys of the test servers.
    #[arg(long)]
    signing_keys: PathBuf,
    /// The server that sends the requests.
    #[arg(long, default_value = "hs2.example:9102")]
    origin: String,
    /// The server that the gateways stand for.
    #[arg(long, default_value = "hs1.example:9101")]
    destination: String,
    /// Peers that send requests at the same time.
    #[arg(long, default_value_t = 8)]
    peers: usize,
    /// How often one request is sent at most.
    #[arg(long, default_value_t = 1)]
    tries: usize,
    /// How long to run.
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    /// Attempts that no gateway accepted: it refused the connection, or closed it without a byte.
    not_taken: AtomicU64,
    /// Requests that were sent more than once.
    asked_again: AtomicU64,
    failed: AtomicU64,
}

/// The outcome of one attempt.
enum Attempt {
    Answered,
    /// No gateway accepted the request: send it again.
    NotTaken,
    /// The gateway says that it cannot answer now: send it again.
    Unavailable(String),
    Failed(String),
}

/// What all peers share.
struct Peers {
    args: Args,
    /// The whole request, signed.
    head: String,
    counts: Counts,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let head = signed_request(&args).await?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let peers = Arc::new(Peers { args, head, counts: Counts::default() });
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    for first_gateway in 0..peers.args.peers {
        let peers = Arc::clone(&peers);
        let stop = stop.clone();
        running.spawn(async move {
            let mut turn = first_gateway;
            while !stop.is_cancelled() && Instant::now() < end {
                peers.request(&mut turn).await;
            }
        });
    }
    let interrupted = tokio::spawn(async move {
        drop(tokio::signal::ctrl_c().await);
        stop.cancel();
    });
    running.join_all().await;
    interrupted.abort();
    let Counts { answered, not_taken, asked_again, failed } = &peers.counts;
    let answered = answered.load(Relaxed);
    let not_taken = not_taken.load(Relaxed);
    let asked_again = asked_again.load(Relaxed);
    let failed = failed.load(Relaxed);
    println!(
        r#"{{"answered": {answered}, "not_taken": {not_taken}, "asked_again": {asked_again}, "failed": {failed}}}"#
    );
    Ok(if failed == 0 && answered > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Signs the request of all peers, sends it once to see that it is answered, and returns its bytes.
async fn signed_request(args: &Args) -> anyhow::Result<String> {
    let room = File::open(&args.room).with_context(|| args.room.display().to_string())?;
    let (header, lines) = Reader::open(BufReader::new(room))?;
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let mut in_graph = lines.iter().filter(|it| !it.outlier && !it.rejected);
    let last = in_graph.next_back().context("the room is empty")?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let uri = format!(
        "/_matrix/federation/v1/backfill/{}?v={}&limit=100",
        encoded(&header.room_id),
        encoded(&last.event_id),
    );
    let federation = Federation::from_json(&fs::read_to_string(&args.signing_keys)?);
    let request = FederationRequest {
        origin: &args.origin,
        destination: &args.destination,
        method: "GET",
        uri: &uri,
        content: None,
    };
    let gateway = *args.gateways.first().context("no gateway")?;
    let response = federation.send(gateway, request).await;
    ensure!(response.status.is_success(), "{}: {:?}", response.status, response.body);
    let authorization = federation.authorization(request);
    let host = &args.destination;
    Ok(format!(
        "GET {uri} HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n"
    ))
}

impl Peers {
    /// Sends the request until it is answered, fails, or no try is left. `turn` selects the gateway.
    async fn request(&self, turn: &mut usize) {
        let Self { args, head, counts } = self;
        let mut reason = None;
        for attempt in 0..args.tries {
            if attempt > 0 {
                time::sleep(PAUSE).await;
            }
            if attempt == 1 {
                counts.asked_again.fetch_add(1, Relaxed);
            }
            let Some(gateway) = args.gateways.get(*turn % args.gateways.len()) else { return };
            *turn += 1;
            match time::timeout(RESPONSE_TIMEOUT, try_once(*gateway, head)).await {
                Ok(Attempt::Answered) => {
                    counts.answered.fetch_add(1, Relaxed);
                    return;
                }
                Ok(Attempt::NotTaken) => {
                    counts.not_taken.fetch_add(1, Relaxed);
                    reason = None;
                }
                Ok(Attempt::Unavailable(it)) => reason = Some(it),
                Ok(Attempt::Failed(it)) => {
                    reason = Some(it);
                    break;
                }
                Err(_elapsed) => {
                    reason = Some("no response in time".to_owned());
                    break;
                }
            }
        }
        // With a single try, a gateway that is down is not a failure.
        if args.tries > 1 || reason.is_some() {
            eprintln!("failed: {}", reason.as_deref().unwrap_or("no gateway accepted the request"));
            counts.failed.fetch_add(1, Relaxed);
        } else {
            time::sleep(PAUSE).await;
        }
    }
}

async fn try_once(gateway: SocketAddr, head: &str) -> Attempt {
    let mut response = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut response).await?;
        Ok::<(), Error>(())
    };
    let ended = exchange.await;
    match ended {
        Ok(()) if response.is_empty() => Attempt::NotTaken,
        Ok(()) => check(&response),
        Err(error) if !response.is_empty() => Attempt::Failed(format!("cut off: {error}")),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Attempt::NotTaken
            }
            _ => Attempt::Failed(error.to_string()),
        },
    }
}

/// Checks that a response is complete and correct.
fn check(response: &[u8]) -> Attempt {
    let text = String::from_utf8_lossy(response);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Attempt::Failed("cut off in the head".to_owned());
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let length = head.lines().find_map(|it| {
        let (name, value) = it.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let is_complete = length.is_none_or(|it| it == body.len());
    match status {
        "200" if is_complete && body.contains("\"pdus\"") => Attempt::Answered,
        "429" | "502" | "503" | "504" => Attempt::Unavailable(format!("{status} {body}")),
        _ => Attempt::Failed(format!("{status}, {} bytes of body", body.len())),
    }
}
