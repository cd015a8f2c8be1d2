//! Answers of the homeserver are sent while they are received: large ones, incomplete ones, and those of
//! which the client wants no more.

use std::time::Duration;

use axum::http::Uri;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use super::TARGET;
use crate::support::{
    Beside,
    client::{self, Ask},
    homeserver::{FakeHomeserver, Reply},
    peer::Peer,
    program::Program,
    tls::Http2,
    until, within,
};

const MIB: usize = 1024 * 1024;

/// A gateway whose history service is away.
async fn start() -> Beside {
    Beside::start_with(|options, _| {
        options.history = Uri::from_static("http://127.0.0.1:1").into();
    })
    .await
}

async fn asking(address: std::net::SocketAddr, peer: &Peer) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&Ask::new("GET", TARGET).signed_by(peer).bytes()).await.unwrap();
    stream
}

/// Waits until a number stays the same for a while.
async fn settled(mut read: impl FnMut() -> usize) -> usize {
    within("a number that settles", async {
        loop {
            let before = read();
            time::sleep(Duration::from_millis(300)).await;
            if before > 0 && read() == before {
                return before;
            }
        }
    })
    .await
}

/// The homeserver sends no more than the client reads, and the memory stays the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer() {
    const LARGE: usize = 50 * MIB;
    let homeserver = FakeHomeserver::start().await;
    homeserver.reply(Reply::Large(LARGE));
    let flags =
        ["--fallback", &homeserver.url(), "--fallback-first-of-origin", "false"].map(str::to_owned);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let program = Program::start(&flags).await;
    program.history.set_not_final(true);
    assert_eq!(program.answers(4).await, 4);
    let before = program.most_mib();

    let mut stream = asking(program.address, &program.peer).await;
    let (_, already) = homeserver.bytes();
    let sent = settled(|| homeserver.bytes().1 - already).await;
    assert!(sent < 20 * MIB, "{sent} bytes were sent to a client that reads nothing");
    let mut read = 0;
    let mut buffer = vec![0; 64 * 1024];
    within("the whole answer", async {
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return,
                count => read += count,
            }
        }
    })
    .await;
    assert!((LARGE..LARGE + 1_024).contains(&read), "{read}");
    let after = program.most_mib();
    assert!(after < before + 8, "{before} MiB before, {after} MiB afterwards");
}

/// No client takes a part of an answer for the whole.
#[tokio::test]
async fn an_answer_that_breaks_off() {
    let Beside { stage, homeserver, .. } = start().await;
    let by_length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"";
    let in_chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n";
    for reply in [by_length, in_chunks] {
        homeserver.reply(Reply::Cut(reply.into()));
        let mut stream = asking(stage.address, &stage.peer).await;
        let bytes = within("the end", client::read_bytes(&mut stream)).await.unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n") && !text.ends_with("\r\n\r\n"), "{text}");

        let mut http = Http2::over(TcpStream::connect(stage.address).await.unwrap()).await;
        let header = stage.peer.header(&stage.peer.sig("GET", TARGET, None));
        let answer = within("an end", http.ask("GET", TARGET, &[&header], "")).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    // Before its head is complete, it is no answer: the request is repeated once, then refused.
    homeserver.arrived();
    homeserver.reply(Reply::Cut(b"HTTP/1.1 200 OK\r\nContent-".to_vec()));
    assert_eq!(stage.get(TARGET).await.refusal().0, 503);
    assert_eq!(homeserver.arrived().len(), 2);
    homeserver.reply(Reply::Cut(b"nonsense\r\n\r\n".to_vec()));
    assert_eq!(stage.get(TARGET).await.refusal().0, 503);
}

#[tokio::test]
async fn a_homeserver_that_is_too_slow() {
    let Beside { stage, homeserver, .. } =
        Beside::start_with(|options, _| options.request_timeout = Duration::from_millis(200)).await;
    stage.history.set_not_final(true);
    let _held = homeserver.hold();
    assert_eq!(stage.get(TARGET).await.refusal(), (504, "M_UNKNOWN".to_owned()));
    until("the request is dropped", async || homeserver.connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves() {
    let Beside { stage, homeserver, .. } = start().await;
    // While the homeserver makes its answer.
    let held = homeserver.hold();
    let stream = asking(stage.address, &stage.peer).await;
    homeserver.holds(1).await;
    drop(stream);
    until("the request is dropped", async || homeserver.connections() == 0).await;
    // While the answer is sent.
    held.add_permits(1);
    homeserver.reply(Reply::Large(500 * MIB));
    let mut stream = asking(stage.address, &stage.peer).await;
    stream.read_exact(&mut vec![0; MIB]).await.unwrap();
    drop(stream);
    until("the answer is dropped", async || homeserver.connections() == 0).await;
    assert!(homeserver.bytes().1 < 100 * MIB);
}
