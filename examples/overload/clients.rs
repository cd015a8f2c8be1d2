//! The clients: connections that send the next request when they have a response, or at fixed times.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};

use super::DEADLINE;

/// The time between the starts of two connections, as if they came from different machines.
const BETWEEN_CONNECTIONS: Duration = Duration::from_micros(500);

/// The load of one phase.
pub(super) struct Load {
    pub(super) gateway: SocketAddr,
    pub(super) requests: Arc<Vec<String>>,
    pub(super) connections: u32,
    /// Requests per second of all connections together; `None` to send as fast as responses are
    /// received.
    pub(super) rate: Option<f64>,
    pub(super) duration: Duration,
}

/// The number of requests by outcome.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// The result of one phase.
pub(super) struct Outcome {
    pub(super) counts: Arc<Counts>,
    /// The growth of the given processor time during the phase.
    pub(super) cpu: Duration,
}

/// One connection, made again when it breaks.
struct Connection {
    gateway: SocketAddr,
    requests: Arc<Vec<String>>,
    counts: Arc<Counts>,
    /// The index of the last request.
    at: usize,
    /// When the next request is due.
    next: Instant,
    /// The time between two requests; `None` to send the next one at once.
    interval: Option<Duration>,
    end: Instant,
}

impl Load {
    /// Runs the phase. Connections are made before it begins, and responses after its end do not
    /// count.
    pub(super) async fn run(
        &self,
        cpu: impl Fn() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Outcome> {
        let counts = Arc::new(Counts::default());
        let mut running = JoinSet::new();
        let now = Instant::now();
        let start = now + BETWEEN_CONNECTIONS * self.connections + Duration::from_millis(200);
        let end = start + self.duration;
        for nth in 0..self.connections {
            let per_request = |rate| f64::from(self.connections) / rate;
            let interval = self.rate.map(|rate| Duration::from_secs_f64(per_request(rate)));
            let connection = Connection {
                gateway: self.gateway,
                requests: Arc::clone(&self.requests),
                counts: Arc::clone(&counts),
                // A prime, so that the connections send different requests at the same time.
                at: usize::try_from(nth)? * 7_919,
                // The first requests are spread over one interval.
                next: start + interval.unwrap_or_default() * nth / self.connections,
                interval,
                end,
            };
            running.spawn(async move {
                time::sleep_until(now + BETWEEN_CONNECTIONS * nth).await;
                connection.run().await;
            });
        }
        time::sleep_until(start).await;
        let before = cpu()?;
        time::sleep_until(end).await;
        let cpu = cpu()?.saturating_sub(before);
        running.join_all().await;
        Ok(Outcome { counts, cpu })
    }
}

impl Connection {
    async fn run(mut self) {
        while self.next < self.end {
            match TcpStream::connect(self.gateway).await {
                Ok(stream) => self.send_all(BufStream::new(stream)).await,
                Err(_) => drop(self.counts.failed.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    /// Sends requests until the end, or until the connection breaks.
    async fn send_all(&mut self, mut stream: BufStream<TcpStream>) {
        while self.next < self.end {
            time::sleep_until(self.next).await;
            self.at += 1;
            let Some(request) = self.requests.get(self.at % self.requests.len()) else { return };
            let sent = Instant::now();
            let status = time::timeout(3 * DEADLINE, exchange(&mut stream, request)).await;
            let counted = match status {
                Ok(Ok(200)) if sent.elapsed() > DEADLINE => &self.counts.late,
                Ok(Ok(200)) => &self.counts.answered,
                Ok(Ok(429)) => &self.counts.refused,
                _ => &self.counts.failed,
            };
            let now = Instant::now();
            if now < self.end {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            // A request that could not be sent in time is not sent later.
            self.next = self.interval.map_or(now, |it| (self.next + it).max(now));
            if !matches!(status, Ok(Ok(_))) {
                return;
            }
        }
    }
}

/// Sends one request and reads the response; returns its status.
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
