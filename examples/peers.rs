//! Other homeservers, as many as asked for: each asks signed questions, one after another, over
//! connections of its own, and does what homeservers do when a gateway does not take a question:
//! asks again, elsewhere. `docker/prove` and `docker/rolling` put it beside a restart.
//!
//! Runs until Ctrl-C or for `--seconds`; prints one JSON object. Exit code 1 if a question failed:
//! a gateway took it and gave no right answer, or none would take it.

use std::{
    io::{Error, ErrorKind},
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
use clap::Parser;
use federation::{Federation, Question};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{self, Instant},
};

#[path = "../tests/it/support/federation.rs"]
mod federation;

/// How long a peer waits before it asks again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Args {
    /// The gateways, one after another.
    #[arg(long = "gateway", required = true)]
    gateways: Vec<SocketAddr>,
    /// The room, in the room format.
    #[arg(long)]
    room: PathBuf,
    #[arg(long)]
    signing_keys: PathBuf,
    #[arg(long, default_value = "hs2.example:9102")]
    origin: String,
    #[arg(long, default_value = "hs1.example:9101")]
    destination: String,
    /// How many ask at the same time.
    #[arg(long, default_value_t = 8)]
    peers: usize,
    /// How often a question is asked at most.
    #[arg(long, default_value_t = 1)]
    tries: usize,
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    /// Attempts that no gateway took: the connection was refused, or closed without a word.
    not_taken: AtomicU64,
    /// Questions that were asked more than once.
    asked_again: AtomicU64,
    failed: AtomicU64,
}

/// What came of one attempt.
enum Attempt {
    Answered,
    /// Ask again.
    NotTaken,
    /// Ask again: the gateway says so.
    Unavailable(String),
    Failed(String),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let room = std::fs::File::open(&args.room).with_context(|| args.room.display().to_string())?;
    let (header, lines) = Reader::open(std::io::BufReader::new(room))?;
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let mut placed = lines.iter().filter(|it| !it.outlier && !it.rejected);
    let last = placed.next_back().context("the room is empty")?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let uri = format!(
        "/_matrix/federation/v1/backfill/{}?v={}&limit=100",
        encoded(&header.room_id),
        encoded(&last.event_id),
    );
    let federation = Federation::new(&std::fs::read_to_string(&args.signing_keys)?);
    let (origin, destination) = (args.origin.clone(), args.destination.clone());
    let question = Question {
        origin: &origin,
        destination: &destination,
        method: "GET",
        uri: &uri,
        content: None,
    };
    let first = *args.gateways.first().context("no gateway")?;
    let answer = federation.ask(first, question).await;
    ensure!(answer.status.is_success(), "{}: {:?}", answer.status, answer.body);
    let head = format!(
        "GET {uri} HTTP/1.1\r\nhost: {destination}\r\nauthorization: {}\r\nconnection: close\r\n\r\n",
        federation.authorization(question),
    );

    let (counts, args) = (Arc::new(Counts::default()), Arc::new(args));
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let stop = tokio_util::sync::CancellationToken::new();
    let peers: Vec<_> = (0..args.peers)
        .map(|at| {
            let (counts, args, head) = (Arc::clone(&counts), Arc::clone(&args), head.clone());
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut turn = at;
                while !stop.is_cancelled() && Instant::now() < end {
                    ask(&args, &head, (&mut turn, &counts)).await;
                }
            })
        })
        .collect();
    let interrupted = tokio::spawn(async move {
        drop(tokio::signal::ctrl_c().await);
        stop.cancel();
    });
    for peer in peers {
        peer.await?;
    }
    interrupted.abort();
    let [answered, not_taken, asked_again, failed] =
        [&counts.answered, &counts.not_taken, &counts.asked_again, &counts.failed]
            .map(|it| it.load(Relaxed));
    println!(
        r#"{{"answered": {answered}, "not_taken": {not_taken}, "asked_again": {asked_again}, "failed": {failed}}}"#
    );
    Ok(if failed == 0 && answered > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks until there is an answer, or no patience left.
async fn ask(args: &Args, head: &str, (turn, counts): (&mut usize, &Counts)) {
    let mut why = String::new();
    for attempt in 0..args.tries {
        if attempt > 0 {
            time::sleep(PAUSE).await;
        }
        if attempt == 1 {
            counts.asked_again.fetch_add(1, Relaxed);
        }
        let Some(gateway) = args.gateways.get(*turn % args.gateways.len()) else { return };
        *turn += 1;
        match time::timeout(PATIENCE, try_once(*gateway, head)).await {
            Ok(Attempt::Answered) => {
                counts.answered.fetch_add(1, Relaxed);
                return;
            }
            Ok(Attempt::NotTaken) => {
                counts.not_taken.fetch_add(1, Relaxed);
                why = "no gateway took it".to_owned();
            }
            Ok(Attempt::Unavailable(told)) => why = told,
            Ok(Attempt::Failed(told)) => {
                why = told;
                break;
            }
            Err(_elapsed) => {
                why = "no answer in time".to_owned();
                break;
            }
        }
    }
    // With a single try, a gateway that is gone is no failure of it.
    if args.tries > 1 || why != "no gateway took it" {
        eprintln!("failed: {why}");
        counts.failed.fetch_add(1, Relaxed);
    } else {
        time::sleep(PAUSE).await;
    }
}

async fn try_once(gateway: SocketAddr, head: &str) -> Attempt {
    let mut answer = Vec::new();
    let asked = async {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut answer).await?;
        Ok::<(), Error>(())
    };
    let ended = asked.await;
    match (ended, &answer[..]) {
        // Nobody had begun to answer.
        (Ok(()), []) => Attempt::NotTaken,
        (Err(error), []) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Attempt::NotTaken
            }
            _ => Attempt::Failed(error.to_string()),
        },
        (Err(error), _) => Attempt::Failed(format!("cut off in the middle: {error}")),
        (Ok(()), _) => judge(&answer),
    }
}

/// Whether an answer is whole, and good.
fn judge(answer: &[u8]) -> Attempt {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Attempt::Failed("cut off in the middle".to_owned());
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let length = head.lines().find_map(|it| {
        let (name, value) = it.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = length.is_none_or(|it| it == body.len());
    match status {
        "200" if whole && body.contains("\"pdus\"") => Attempt::Answered,
        "429" | "502" | "503" | "504" => Attempt::Unavailable(format!("{status} {body}")),
        _ => Attempt::Failed(format!("{status}, whole: {whole}: {body:.200}")),
    }
}
