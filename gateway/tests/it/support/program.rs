//! The gateway as a process of its own, with default limits, so that its memory can be measured, and attackers
//! use another process.

use std::{
    env, fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, net::TcpStream, time};

use super::{
    US,
    client::{self, Answer, Ask},
    history::FakeHistory,
    peer::Peer,
    tls::Authority,
};

/// The number of further servers with pinned keys.
pub(crate) const MANY: u8 = 16;

/// One of the [`MANY`] servers.
pub(crate) fn one_of_many(nth: u8) -> Peer {
    Peer::new(&format!("s{nth}.example"), 100 + nth)
}

/// The path of the program, or of another version to compare with.
#[expect(clippy::disallowed_methods, reason = "a test that measures has no command line")]
fn binary() -> String {
    let other = env::var("BACKSCROLL_GATEWAY_BINARY");
    other.unwrap_or_else(|_| env!("CARGO_BIN_EXE_backscroll-gateway").to_owned())
}

/// A running gateway process, and its history service.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) history: FakeHistory,
    /// A server with pinned keys. Those of `other.example` and of [`MANY`] others are pinned too.
    pub(crate) peer: Peer,
    _dir: TempDir,
    /// The authority of its certificate, if it has one.
    authority: Option<Authority>,
}

impl Program {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_as(None, flags).await
    }

    /// Starts the program with a certificate.
    pub(crate) async fn start_with_tls(flags: &[&str]) -> Self {
        let authority = Authority::new();
        authority.write_pair();
        Self::start_as(Some(authority), flags).await
    }

    #[expect(clippy::disallowed_methods, reason = "the program compares with the wall clock")]
    async fn start_as(authority: Option<Authority>, flags: &[&str]) -> Self {
        let history = FakeHistory::start().await;
        let (peer, other) = (Peer::new("peer.example:8448", 1), Peer::new("other.example", 2));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_hours(9);
        let until = now.as_millis().try_into().unwrap();
        let known = [peer.clone(), other].into_iter().chain((0..MANY).map(one_of_many));
        let keys = known.map(|it| (it.name.clone(), it.key_answer_until(until)));
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("keys.json");
        fs::write(&file, Value::Object(keys.collect()).to_string()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut command = Command::new(binary());
        if let Some(authority) = &authority {
            let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
            command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        }
        let child = command
            .env_clear()
            .args(["--server-name", US, "--fetch-keys", "false", "--log", "error"])
            .args(["--history", &format!("http://{}", history.address)])
            .args(["--listen", &address.to_string(), "--pinned-keys"])
            .arg(&file)
            .args(flags)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { child, address, history, peer, _dir: dir, authority };
        let ready = async {
            while TcpStream::connect(address).await.is_err() {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(Duration::from_secs(20), ready).await.expect("it listens");
        program
    }

    /// The peak memory of the process in MiB; zero where the system does not report it.
    pub(crate) fn most_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.map_or(0, |it| it.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024)
    }

    /// Sends requests of a well-behaved server, one after another. Returns how many were answered within
    /// ten seconds each.
    pub(crate) async fn answers(&self, attempts: usize) -> usize {
        let mut answers = 0;
        for nth in 0..attempts {
            let room = "!r:us.example";
            let ask = if nth % 2 == 0 {
                let target = format!("/_matrix/federation/v1/backfill/{room}?v=$a{nth}&limit=1");
                Ask::new("GET", &target)
            } else {
                let target = format!("/_matrix/federation/v1/get_missing_events/{room}");
                Ask::new("POST", &target).body(format!(r#"{{"latest_events":["$a{nth}"]}}"#))
            };
            let bytes = ask.signed_by(&self.peer).bytes();
            let answer = time::timeout(Duration::from_secs(10), self.send(&bytes)).await;
            let is_answer = matches!(answer, Ok(Some(answer)) if answer.status == 200);
            answers += usize::from(is_answer);
        }
        answers
    }
}

impl Program {
    /// Sends a request on a connection of its own.
    async fn send(&self, bytes: &[u8]) -> Option<Answer> {
        let Some(authority) = &self.authority else {
            return client::try_send(TcpStream::connect(self.address).await.ok()?, bytes).await;
        };
        client::try_send(authority.connect(self.address, &[b"http/1.1"]).await.ok()?, bytes).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
