//! Attacks by unauthenticated clients that try to shut others out, from many addresses, against the program
//! with its default limits. During each attack a well-behaved server gets its answers, and the
//! program stays below the memory of its manifest.

mod attacks;

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use self::attacks::{
    Begin, FLOODS, HANDSHAKES, IDLE, TOGETHER, UNFINISHED, UNTAKEN, from_each, large_pages,
};
use crate::support::{
    Stage,
    client::{self, Ask},
    frames::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, connect_from, frame, head,
    },
    history::FakeHistory,
    program::Program,
};

const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";
/// The memory limit in `docker/kubernetes/gateway.yaml`.
const MANIFEST_MIB: u64 = 256;
/// Requests of the well-behaved server during an attack.
const ATTEMPTS: usize = 20;
/// How many of them must be answered.
const ENOUGH: usize = 16;
/// Longest wait for an attack to begin.
const PATIENCE: Duration = Duration::from_secs(20);
/// The program that is attacked.
struct Against {
    flags: &'static [&'static str],
    has_tls: bool,
    prepare: fn(&FakeHistory),
}

const USUAL: Against = Against { flags: &[], has_tls: false, prepare: |_| {} };

impl Against {
    async fn start(&self) -> Program {
        let program = if self.has_tls {
            Program::start_with_tls(self.flags).await
        } else {
            Program::start(self.flags).await
        };
        (self.prepare)(&program.history);
        program
    }
}

/// Begins each attack, and sends requests meanwhile.
async fn hold(against: Against, rows: &[(&str, Begin)]) {
    let mut wrong = Vec::new();
    for (name, begin) in rows {
        let program = against.start().await;
        let before = program.answers(4).await;
        let attack = time::timeout(PATIENCE, begin(program.address)).await;
        let answers = program.answers(ATTEMPTS).await;
        let mib = program.most_mib();
        println!("{name}: {answers} of {ATTEMPTS} answers, at most {mib} MiB");
        if before < 4 || answers < ENOUGH || mib >= MANIFEST_MIB || attack.is_err() {
            wrong.push(format!(
                "{name}: {answers} of {ATTEMPTS} answers, at most {mib} MiB; begun: {}",
                attack.is_ok()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_come_whole() {
    hold(USUAL, UNFINISHED).await;
}

/// Authenticated servers have a common limit too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_known_servers_take_no_more_memory() {
    let program = PAGES.start().await;
    let _attack = time::timeout(PATIENCE, TOGETHER(program.address)).await.unwrap();
    for _ in 0..3 {
        program.answers(1).await;
    }
    let mib = program.most_mib();
    assert!(mib < MANIFEST_MIB, "{mib} MiB");
}

const BESIDE: Against = Against {
    // No program listens on port 1: whatever is passed on fails.
    flags: &["--fallback", "http://127.0.0.1:1", "--pass-through", "true"],
    ..USUAL
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_beside_a_homeserver() {
    hold(BESIDE, UNFINISHED).await;
    hold(BESIDE, FLOODS).await;
}

const PAGES: Against = Against { prepare: large_pages, ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_taken() {
    hold(PAGES, UNTAKEN).await;
}

const FEW: Against =
    Against { flags: &["--max-connections", "160", "--max-per-address", "20"], ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_on_which_nothing_is_asked() {
    hold(FEW, IDLE).await;
}

const TLS: Against = Against { has_tls: true, ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes() {
    hold(TLS, HANDSHAKES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods() {
    hold(USUAL, FLOODS).await;
}

/// Measures a well-behaved server during each attack: the part of its requests that is answered at a steady
/// rate, and the answers per second at full speed, before and during the attack. At full speed it competes
/// with the attackers for the processor. Run it with `--release` on an idle machine; set
/// `BACKSCROLL_GATEWAY_BINARY` to compare with another version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn goodput() {
    let tables = [
        (USUAL, UNFINISHED, 80),
        (PAGES, UNTAKEN, 20),
        (FEW, IDLE, 80),
        (TLS, HANDSHAKES, 80),
        (USUAL, FLOODS, 80),
    ];
    for (against, rows, rate) in tables {
        for (name, begin) in rows {
            let program = against.start().await;
            let before = a_second(&program).await;
            let attack = time::timeout(PATIENCE, begin(program.address)).await;
            let steady = steady_goodput(&program, rate).await;
            let meanwhile = a_second(&program).await;
            println!(
                "{name}: {:.0} % of {rate} a second; {before:.0} a second before, {meanwhile:.0} \
                 meanwhile ({:.0} %); at most {} MiB{}",
                100.0 * steady,
                100.0 * meanwhile / before,
                program.most_mib(),
                if attack.is_ok() { "" } else { "; the attack did not begin in time" },
            );
        }
    }
}

/// The part of the requests that is answered within two seconds, at `rate` requests per second.
async fn steady_goodput(program: &Program, rate: u32) -> f64 {
    let attempts = rate * 5;
    let started = time::Instant::now();
    let requests = (0..attempts).map(|nth| async move {
        time::sleep_until(started + Duration::from_secs(1) * nth / rate).await;
        let answers = time::timeout(Duration::from_secs(2), program.answers(1)).await;
        u32::try_from(answers.unwrap_or(0)).unwrap()
    });
    let answered: u32 = futures_util::future::join_all(requests).await.into_iter().sum();
    f64::from(answered) / f64::from(attempts)
}

async fn a_second(program: &Program) -> f64 {
    const BATCH: usize = 10;
    let started = Instant::now();
    let mut answers = 0;
    while started.elapsed() < Duration::from_secs(2) {
        answers += program.answers(BATCH).await;
    }
    f64::from(u32::try_from(answers).unwrap()) / started.elapsed().as_secs_f64()
}

/// A connection with an authenticated request under way is not closed for others.
#[tokio::test]
async fn a_client_that_waits_for_an_answer_is_not_evicted() {
    let stage = Stage::start_with(|options| {
        options.limits.max_connections = 8;
        options.limits.max_per_address = 4;
    })
    .await;
    let hold = stage.history.hold();
    let target = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
    let request = Ask::new("GET", target).signed_by(&stage.peer).bytes();
    let address = stage.address;
    let asking = tokio::spawn(async move { client::send(address, &request).await });
    hold.arrived().await;
    let attack = from_each(20, 4, address, connect_from).await;
    hold.release_one();
    assert_eq!(asking.await.unwrap().status, 200);
    drop(attack);
}

#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let stage = Stage::start().await;
    let asked = frame(HEADERS, END_HEADERS, 1, &head("POST", MISSING, ""));
    let headers = frame(HEADERS, 0, 1, &head("POST", MISSING, ""));
    let flood = |before: &[u8], one: Vec<u8>| [PREFACE, before, &one.repeat(5_000)].concat();
    let none = &frame(SETTINGS, 0, 0, &[])[..];
    let after_asking = &[none, &asked].concat()[..];
    let mut wrong = Vec::new();
    for (name, bytes) in [
        ("SETTINGS", flood(none, frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]))),
        ("SETTINGS that are empty", flood(none, frame(SETTINGS, 0, 0, &[]))),
        ("SETTINGS taken note of", flood(none, frame(SETTINGS, 1, 0, &[]))),
        ("PING", flood(none, frame(PING, 0, 0, &[7; 8]))),
        ("answers to PING", flood(none, frame(PING, 1, 0, &[7; 8]))),
        ("WINDOW_UPDATE", flood(none, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        (
            "WINDOW_UPDATE of a stream",
            flood(after_asking, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ),
        ("PRIORITY", flood(none, frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]))),
        ("RST_STREAM", flood(after_asking, frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]))),
        ("unknown", flood(none, frame(0xbe, 0, 0, b"grease"))),
        ("unknown, of a stream", flood(after_asking, frame(0xbe, 0, 1, &[]))),
        ("DATA of nothing", flood(after_asking, frame(DATA, 0, 1, &[]))),
        ("DATA of one byte", flood(after_asking, frame(DATA, 0, 1, b"1"))),
        (
            "CONTINUATION of nothing",
            flood(&[none, &headers].concat(), frame(CONTINUATION, 0, 1, &[])),
        ),
    ] {
        let (mut reading, mut writing) =
            TcpStream::connect(stage.address).await.unwrap().into_split();
        let writing = tokio::spawn(async move {
            // The gateway may close the connection before all is written. The client keeps it open.
            drop(writing.write_all(&bytes).await);
            std::future::pending::<()>().await;
        });
        let closed = async { while reading.read(&mut [0; 4_096]).await.is_ok_and(|it| it > 0) {} };
        if time::timeout(Duration::from_secs(5), closed).await.is_err() {
            wrong.push(name);
        }
        writing.abort();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(stage.send(Ask::new("GET", "/healthz")).await.status, 200);
}
