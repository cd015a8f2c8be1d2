//! A proxy before a PostgreSQL server: it cuts connections between a COMMIT and its answer, delays
//! what it forwards, and can be as unreachable as a dead machine.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::random::Random;

/// What the server answers when a transaction has ended, either way.
const ENDED: [&[u8]; 2] = [b"COMMIT\0", b"ROLLBACK\0"];

/// How the proxy treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forwards everything.
    Forward,
    /// Closes each connection, as a machine without the server does.
    Refuse,
    /// Takes connections and what is sent, and forwards nothing, as behind a dead link.
    Silent,
}

/// A running proxy. It ends with the process.
#[derive(Clone, Debug)]
pub struct Cutter {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<SocketAddr>,
    settings: Mutex<Settings>,
    open: Mutex<Vec<TcpStream>>,
    cuts: AtomicU64,
}

#[derive(Debug)]
struct Settings {
    mode: Mode,
    percent: u64,
    random: Random,
    delay: Duration,
}

/// What the proxy does with the next COMMIT.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    No,
    /// At once: the server may apply the commit or not.
    AtOnce,
    /// After the server has answered; the client does not see the answer.
    AfterAnswer,
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

struct Half {
    from: TcpStream,
    to: TcpStream,
    direction: Direction,
    /// Whether answers are kept from the client, shared by both directions.
    hides_answers: Arc<AtomicBool>,
}

impl Cutter {
    /// Starts a proxy before a server. It forwards everything at first.
    #[must_use]
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, random) = (Mode::Forward, Random::new(1));
        let settings = Settings { mode, percent: 0, random, delay: Duration::ZERO };
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            settings: Mutex::new(settings),
            open: Mutex::default(),
            cuts: AtomicU64::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                accepting.accept(&client.unwrap());
            }
        });
        Self { address, shared }
    }

    /// The address of the proxy.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on cuts this share of the connections on which a COMMIT was sent, before the client
    /// gets the answer; half of them before and half of them after the server has given it.
    pub fn cut_commits(&self, percent: u64, seed: u64) {
        let mut settings = self.shared.settings();
        (settings.percent, settings.random) = (percent, Random::new(seed));
    }

    /// From now on everything arrives this much later, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.shared.settings().delay = delay;
    }

    /// Treats connections otherwise. Those that are open are cut, unless they are only silent now.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.settings().mode = mode;
        if mode == Mode::Refuse {
            self.cut_all();
        }
    }

    /// Sends new connections to another server.
    pub fn redirect(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Cuts all connections that are open.
    pub fn cut_all(&self) {
        for stream in self.shared.open().drain(..) {
            close(&stream);
        }
    }

    /// How many connections were cut between a COMMIT and its answer.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, client: &TcpStream) {
        let address = *self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if self.settings().mode == Mode::Refuse {
            return;
        }
        let Ok(server) = TcpStream::connect(address) else { return };
        let hides_answers = Arc::new(AtomicBool::default());
        for stream in [client, &server] {
            stream.set_nodelay(true).unwrap();
            self.open().push(stream.try_clone().unwrap());
        }
        let ends = [(client, &server, Direction::ToServer), (&server, client, Direction::ToClient)];
        for (from, to, direction) in ends {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let hides_answers = Arc::clone(&hides_answers);
            let half = Half { from, to, direction, hides_answers };
            let shared = Arc::clone(self);
            thread::spawn(move || shared.forward(half));
        }
    }

    /// Forwards one direction until either side closes it.
    fn forward(self: Arc<Self>, mut half: Half) {
        let (sender, delayed) = mpsc::channel::<(Instant, Vec<u8>)>();
        let (mut from, shared) = (half.from.try_clone().unwrap(), Arc::clone(&self));
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let due = Instant::now() + shared.settings().delay;
                if sender.send((due, buffer[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        // The end of what was seen: a word may come in two pieces. It is too short for a whole word.
        let longest = if half.direction == Direction::ToServer { "COMMIT" } else { "ROLLBACK\0" };
        let mut tail = Vec::new();
        for (due, bytes) in delayed {
            wait_until(due);
            tail.extend_from_slice(&bytes);
            if self.settings().mode == Mode::Silent {
                continue;
            }
            if !self.pass(&mut half, &tail, &bytes) {
                break;
            }
            tail.drain(..tail.len().saturating_sub(longest.len() - 1));
        }
        close(&half.from);
        close(&half.to);
        reader.join().unwrap();
    }

    /// Forwards bytes. `false` if the connection has ended, or is to be cut.
    fn pass(&self, half: &mut Half, seen: &[u8], bytes: &[u8]) -> bool {
        match half.direction {
            Direction::ToServer => {
                let cut = if has(seen, b"COMMIT") { self.draw() } else { Cut::No };
                if cut != Cut::No {
                    half.hides_answers.store(true, Ordering::SeqCst);
                    self.cuts.fetch_add(1, Ordering::Relaxed);
                }
                half.to.write_all(bytes).is_ok() && cut != Cut::AtOnce
            }
            Direction::ToClient if half.hides_answers.load(Ordering::SeqCst) => {
                !ENDED.iter().any(|it| has(seen, it))
            }
            Direction::ToClient => half.to.write_all(bytes).is_ok(),
        }
    }

    fn draw(&self) -> Cut {
        let mut settings = self.settings();
        let percent = settings.percent;
        match (settings.random.chance(percent), settings.random.chance(50)) {
            (false, _) => Cut::No,
            (true, true) => Cut::AtOnce,
            (true, false) => Cut::AfterAnswer,
        }
    }
}

/// Whether bytes have a word, in upper or lower case.
fn has(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|it| it.eq_ignore_ascii_case(word))
}

fn close(stream: &TcpStream) {
    // It fails for a connection that is closed already.
    stream.shutdown(Shutdown::Both).unwrap_or_default();
}

#[expect(clippy::disallowed_methods, reason = "it is what a slow network does")]
fn wait_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use tokio_postgres::NoTls;

    use super::*;
    use crate::postgres::Postgres;

    #[tokio::test(flavor = "multi_thread")]
    async fn commits_are_cut_and_some_of_them_are_applied() {
        let Some(postgres) = Postgres::start() else { return };
        postgres.sql("postgres", "create table t (n int)");
        let cutter = Cutter::start(postgres.address());
        cutter.delay(Duration::from_millis(1));
        let url = format!("postgres://owner@{}/postgres", cutter.address());
        let commit = async |n: u32| {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            drop(tokio::spawn(connection));
            client.batch_execute(&format!("begin; insert into t values ({n}); commit")).await
        };
        commit(0).await.unwrap();
        cutter.cut_commits(100, 1);
        for n in 1..=20 {
            commit(n).await.unwrap_err();
        }
        assert_eq!(cutter.cuts(), 20);
        // About half are cut only after they were applied.
        let applied: u32 =
            postgres.sql("postgres", "select count(*) from t").trim().parse().unwrap();
        assert!((5..=21).contains(&applied), "{applied}");
        cutter.cut_commits(0, 1);
        commit(21).await.unwrap();
        cutter.set_mode(Mode::Refuse);
        assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
        cutter.set_mode(Mode::Forward);
        commit(22).await.unwrap();
    }
}
