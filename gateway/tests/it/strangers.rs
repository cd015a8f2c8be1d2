//! What strangers do to shut others out, one row each, with real sockets from many addresses, against
//! the program with the limits it has by default. While each lasts, a server that means well gets its
//! answers, and the program stays below the memory that its manifest gives it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time,
};

use crate::support::{
    Stage, US,
    client::{self, Ask},
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
        Raw, SETTINGS, WINDOW_UPDATE, connect_from, frame, head,
    },
    history::FakeHistory,
    peer::Peer,
    program::{MANY, Program, one_of_many},
    tls::hello,
};

const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";
/// `docker/kubernetes/gateway.yaml`
const MANIFEST_MIB: u64 = 256;
/// What is asked while an attack lasts, and how much of it must be answered.
const ATTEMPTS: usize = 20;
const ENOUGH: usize = 16;
/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an attacker holds what it has before it begins again.
const AGAIN: Duration = Duration::from_secs(2);

/// An attack goes on until this is dropped.
type Attack = JoinSet<()>;

/// The attack, by what it asks of a gateway at this address.
type Begin = fn(SocketAddr) -> BoxFuture<'static, Attack>;

/// What a row is tried on.
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

/// Begins each attack and asks meanwhile.
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

/// Makes connections from some addresses, so many from each, and does something on each; then, time and
/// again, the same on new ones. Returns when all have begun.
async fn from_each<F, G>(addresses: u8, each: usize, to: SocketAddr, act: F) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    repeat((addresses, each), AGAIN, to, act).await
}

/// The same without holding anything: as fast as it goes.
async fn flood<F, G>(addresses: u8, each: usize, to: SocketAddr, act: F) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    repeat((addresses, each), Duration::ZERO, to, act).await
}

async fn repeat<F, G>(
    (addresses, each): (u8, usize),
    hold: Duration,
    to: SocketAddr,
    act: F,
) -> Attack
where
    F: Fn(u8, SocketAddr) -> G + Copy + Send + 'static,
    G: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut attack = JoinSet::new();
    let (begun, mut all_begun) = mpsc::channel::<()>(1);
    for nth in 0..addresses {
        for _ in 0..each {
            let mut begun = Some(begun.clone());
            attack.spawn(async move {
                loop {
                    let held = act(nth, to).await;
                    drop(begun.take());
                    time::sleep(hold).await;
                    drop(held);
                }
            });
        }
    }
    drop(begun);
    // Ready, with nothing, when nobody is left who could say something.
    all_begun.recv().await;
    attack
}

fn unsigned(peer: &str) -> String {
    format!(
        r#"X-Matrix origin="{peer}",destination="{US}",key="ed25519:k1",sig="{}""#,
        "A".repeat(86)
    )
}

/// A stranger's request over HTTP/1.1, of which this is sent.
async fn post(nth: u8, to: SocketAddr, headers: &str, body: Vec<u8>) -> io::Result<TcpStream> {
    let mut stream = connect_from(nth, to).await?;
    let head = format!(
        "POST {MISSING} HTTP/1.1\r\nHost: {US}\r\nAuthorization: {}\r\n{headers}\r\n",
        unsigned("a.example")
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(stream)
}

/// A hundred streams of HTTP/2 whose bodies have these bytes, and no end, as far as windows allow.
async fn unfinished(nth: u8, to: SocketAddr, body: usize) -> io::Result<TcpStream> {
    let mut raw = Raw::connect(nth, to, &[]).await?;
    let head = head("POST", MISSING, &unsigned("a.example"));
    for _ in 0..100 {
        let stream = raw.ask(END_HEADERS, &head).await?;
        for part in vec![b'1'; body].chunks(16_384) {
            // What comes must be read, or nobody could write to us.
            let mut ignored = [0; 4_096];
            while raw.stream.try_read(&mut ignored).is_ok_and(|read| read > 0) {}
            raw.send(&frame(DATA, 0, stream, part)).await?;
        }
    }
    Ok(raw.stream)
}

const UNFINISHED: &[(&str, Begin)] = &[
    ("bodies without an end, HTTP/2", |to| {
        Box::pin(from_each(3, 6, to, |nth, to| unfinished(nth, to, 1)))
    }),
    ("bodies without an end, HTTP/2, many addresses", |to| {
        Box::pin(from_each(40, 2, to, |nth, to| unfinished(nth, to, 1)))
    }),
    ("as much as the windows take, HTTP/2", |to| {
        Box::pin(from_each(3, 6, to, |nth, to| unfinished(nth, to, 10_000)))
    }),
    ("bodies that lack their last byte, HTTP/1.1", |to| {
        Box::pin(from_each(8, 60, to, |nth, to| {
            post(nth, to, "Content-Length: 262144\r\n", vec![b' '; 262_143])
        }))
    }),
    ("bodies that lack their last byte and become large when parsed", |to| {
        Box::pin(from_each(8, 60, to, |nth, to| {
            let body = [&b"[0"[..], &b",0".repeat(131_070), b"]"].concat();
            post(nth, to, "Content-Length: 262143\r\n", body)
        }))
    }),
    ("chunks without an end", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| {
            post(nth, to, "Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n".repeat(9))
        }))
    }),
    ("lengths that are never sent, HTTP/1.1", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| {
            post(nth, to, "Content-Length: 5\r\n", Vec::new())
        }))
    }),
    ("bodies that are refused for their length", |to| {
        Box::pin(from_each(4, 100, to, |nth, to| {
            post(nth, to, "Content-Length: 16777216\r\n", vec![b' '; 1_000_000])
        }))
    }),
    ("heads without an end, HTTP/1.1", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            let fields = format!("A: {}\r\n", "a".repeat(1_500)).repeat(40);
            stream.write_all(format!("GET / HTTP/1.1\r\n{fields}").as_bytes()).await?;
            Ok(stream)
        }))
    }),
    ("heads without an end, HTTP/2", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            let head = head("GET", "/", &"a".repeat(60_000));
            let mut parts = head.chunks(15_000);
            raw.ask(0, parts.next().unwrap()).await?;
            for part in parts {
                raw.send(&frame(CONTINUATION, 0, 1, part)).await?;
            }
            Ok(raw.stream)
        }))
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_come_whole() {
    hold(USUAL, UNFINISHED).await;
}

/// Questions of a server that is known, whose answers it does not take.
async fn greedy(nth: u8, to: SocketAddr, settings: &[u8]) -> io::Result<TcpStream> {
    greedy_as(&Peer::new("other.example", 2), nth, to, settings).await
}

async fn greedy_as(peer: &Peer, nth: u8, to: SocketAddr, settings: &[u8]) -> io::Result<TcpStream> {
    let mut raw = Raw::connect(nth, to, settings).await?;
    for question in 0..100 {
        let path =
            format!("/_matrix/federation/v1/backfill/!r:us.example?v=$a{nth}_{question}&limit=100");
        let header = peer.header(&peer.sig("GET", &path, None));
        raw.ask(END_HEADERS | END_STREAM, &head("GET", &path, &header)).await?;
    }
    Ok(raw.stream)
}

/// About as large as any is: 2 MiB.
fn large_pages(history: &FakeHistory) {
    history.respond(|| Ok(vec![vec![b'1'; 60_000]; 35]));
}

const UNTAKEN: &[(&str, Begin)] = &[
    ("a window of nothing", |to| {
        Box::pin(from_each(1, 2, to, |nth, to| greedy(nth, to, &[0, 4, 0, 0, 0, 0])))
    }),
    ("a window of one byte", |to| {
        Box::pin(from_each(1, 4, to, |nth, to| greedy(nth, to, &[0, 4, 0, 0, 0, 1])))
    }),
    ("the widest window, and nothing is read", |to| {
        Box::pin(from_each(1, 4, to, |nth, to| async move {
            let mut stream = greedy(nth, to, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await?;
            stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])).await?;
            Ok(stream)
        }))
    }),
    ("HTTP/1.1, and nothing is read", |to| {
        Box::pin(from_each(4, 50, to, |nth, to| async move {
            let path = format!("/_matrix/federation/v1/backfill/!r:us.example?v=$b{nth}&limit=100");
            let ask = Ask::new("GET", &path).signed_by(&Peer::new("other.example", 2));
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&ask.bytes()).await?;
            Ok(stream)
        }))
    }),
    ("refusals that strangers do not take", |to| {
        Box::pin(from_each(4, 60, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[0, 4, 0, 0, 0, 0]).await?;
            let head = head("GET", "/", &"a".repeat(5_000));
            for _ in 0..100 {
                raw.ask(END_HEADERS | END_STREAM, &head).await?;
            }
            Ok(raw.stream)
        }))
    }),
];

/// Of servers that are known, each of which uses up all that is its own.
const TOGETHER: Begin = |to| {
    Box::pin(from_each(MANY, 1, to, |nth, to| async move {
        greedy_as(&one_of_many(nth), nth, to, &[0, 4, 0, 0, 0, 0]).await
    }))
};

/// Those who are known are bounded together too, if not as far apart from each other as strangers are.
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

const PAGES: Against = Against { prepare: large_pages, ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_taken() {
    hold(PAGES, UNTAKEN).await;
}

const IDLE: &[(&str, Begin)] = &[
    ("silent", |to| Box::pin(from_each(8, 40, to, connect_from))),
    ("silent HTTP/2", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            Ok(Raw::connect(nth, to, &[]).await?.stream)
        }))
    }),
    ("that have asked once", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            drop(stream.read(&mut [0; 1]).await);
            Ok(stream)
        }))
    }),
    ("that wait for the rest of a request", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| {
            post(nth, to, "Content-Length: 5\r\n", b"{".to_vec())
        }))
    }),
    ("that do not take a refusal", |to| {
        Box::pin(from_each(8, 40, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[0, 4, 0, 0, 0, 0]).await?;
            raw.ask(END_HEADERS | END_STREAM, &head("GET", "/", "")).await?;
            Ok(raw.stream)
        }))
    }),
    ("one each of many addresses", |to| Box::pin(from_each(200, 1, to, connect_from))),
];

const FEW: Against =
    Against { flags: &["--max-connections", "160", "--max-per-address", "20"], ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_on_which_nothing_is_asked() {
    hold(FEW, IDLE).await;
}

const HANDSHAKES: &[(&str, Begin)] = &[
    ("handshakes that do not begin", |to| Box::pin(from_each(4, 150, to, connect_from))),
    ("handshakes that do not go on", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()).await?;
            Ok(stream)
        }))
    }),
    ("half a hello", |to| {
        Box::pin(from_each(4, 150, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()[..99]).await?;
            Ok(stream)
        }))
    }),
    ("handshakes one after the other", |to| {
        Box::pin(flood(4, 20, to, |nth, to| async move {
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&hello()).await?;
            // Until the other end has done its part.
            drop(time::timeout(AGAIN, stream.read(&mut [0; 1])).await);
            Ok(stream)
        }))
    }),
];

const TLS: Against = Against { has_tls: true, ..USUAL };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes() {
    hold(TLS, HANDSHAKES).await;
}

const FLOODS: &[(&str, Begin)] = &[
    ("pings on one connection after the other", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            raw.send(&frame(PING, 0, 0, &[7; 8]).repeat(5_000)).await?;
            Ok(raw.stream)
        }))
    }),
    ("streams that are reset, on one connection after the other", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let mut raw = Raw::connect(nth, to, &[]).await?;
            for _ in 0..1_000 {
                let stream = raw.ask(END_HEADERS | END_STREAM, &head("GET", "/", "")).await?;
                raw.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await?;
            }
            Ok(raw.stream)
        }))
    }),
    ("signatures that do not fit", |to| {
        Box::pin(flood(4, 4, to, |nth, to| async move {
            let authorization = unsigned("other.example").replace("k1", "k2");
            let path = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
            let ask = Ask::new("GET", path).authorization(authorization);
            let mut stream = connect_from(nth, to).await?;
            stream.write_all(&ask.bytes()).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            Ok(stream)
        }))
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods() {
    hold(USUAL, FLOODS).await;
}

/// How many of its requests a server that means well has answered while each attack lasts, when it asks
/// at a steady rate; and how many a second when it asks as fast as answers come, before and meanwhile.
/// The second takes all of the machine, which the attackers are on as well. Of use on a machine that does
/// nothing else, with `--release`, and with `BACKSCROLL_GATEWAY_BINARY` for a version before.
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
            let steady = steadily(&program, rate).await;
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

/// What part of its requests is answered within two seconds when `rate` of them are sent each second.
async fn steadily(program: &Program, rate: u32) -> f64 {
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

/// A connection with an authenticated request under way is not closed for the sake of others.
#[tokio::test]
async fn who_waits_for_an_answer_is_not_cut_off() {
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
    hold.arrived.notified().await;
    let attack = from_each(20, 4, address, connect_from).await;
    hold.proceed.notify_one();
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
            // It may be closed before all is written. What is left open is not closed by us.
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
