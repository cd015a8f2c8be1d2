//! The load generator: a closed loop, in which a connection sends the next request when it has its
//! response, and an open loop, in which requests are due at fixed times. In the open loop the latency
//! of a request begins when it was due, not when a connection was free to send it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use backscroll::{
    context::Context,
    deadline::Deadline,
    proto::v1::history_service_client::HistoryServiceClient,
    query::{self, ServedPage},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};
use tonic::transport::Channel;

use crate::{
    load,
    requests::{BenchRequest, Query, Rpc},
};

/// Where requests are sent.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// An HTTP server: the gateway or the limit.
    Http(SocketAddr),
    /// The history service, by its URL.
    Grpc(String),
}

enum Connection {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(HistoryServiceClient<Channel>),
}

/// What one measurement found.
#[derive(Default)]
pub(crate) struct Measured {
    /// The latency of each request.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) elapsed: Duration,
}

/// Sends requests to a target over a number of connections.
#[derive(Clone)]
pub(crate) struct Generator {
    pub(crate) target: Target,
    pub(crate) requests: Arc<Vec<BenchRequest>>,
    pub(crate) connections: usize,
}

/// The request that a connection sends next.
struct Turn {
    number: usize,
    due: Instant,
}

impl Generator {
    /// Sends as fast as responses are received.
    pub(crate) async fn closed(&self, duration: Duration) -> anyhow::Result<Measured> {
        let connections = self.connect().await?;
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        self.run(start, connections, move || {
            let next = Arc::clone(&next);
            async move {
                let is_over = start.elapsed() >= duration;
                let turn =
                    || Turn { number: next.fetch_add(1, Ordering::Relaxed), due: Instant::now() };
                (!is_over).then(turn)
            }
        })
        .await
    }

    /// Sends `rate` requests per second, at even distances.
    #[expect(clippy::disallowed_methods, reason = "requests are due at fixed times")]
    pub(crate) async fn open(&self, duration: Duration, rate: u32) -> anyhow::Result<Measured> {
        let connections = self.connect().await?;
        let workers = connections.len();
        let distance = Duration::from_secs(1) / rate.max(1);
        let due = Arc::new(Semaphore::new(0));
        let signal = Arc::clone(&due);
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let due_time = move |number: usize| {
            let due = start + distance * u32::try_from(number).unwrap_or(u32::MAX);
            (due < start + duration).then_some(due)
        };
        // A thread of its own: the runtime's timer counts milliseconds.
        let clock = thread::spawn(move || {
            for due in (0..).map_while(due_time) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                signal.add_permits(1);
            }
            // One permit for each worker, so that all of them notice the end.
            signal.add_permits(workers);
        });
        let measured = self
            .run(start, connections, move || {
                let next = Arc::clone(&next);
                let due = Arc::clone(&due);
                async move {
                    due.acquire().await.ok()?.forget();
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    Some(Turn { number, due: due_time(number)? })
                }
            })
            .await;
        clock.join().ok().context("the clock thread panicked")?;
        measured
    }

    async fn connect(&self) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(self.target.connect().await?);
        }
        Ok(connections)
    }

    /// Sends the requests that `next` names, on every connection until it returns `None`.
    async fn run<F>(
        &self,
        start: Instant,
        connections: Vec<Connection>,
        next: impl Fn() -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Measured>
    where
        F: Future<Output = Option<Turn>> + Send,
    {
        let mut workers = JoinSet::new();
        for mut connection in connections {
            let requests = Arc::clone(&self.requests);
            let next = next.clone();
            workers.spawn(async move {
                let mut latencies = Vec::new();
                while let Some(Turn { number, due }) = next().await {
                    let request = requests.get(number % requests.len()).context("no request")?;
                    connection.send(request).await?;
                    latencies.push(due.elapsed());
                }
                anyhow::Ok(latencies)
            });
        }
        let mut measured = Measured::default();
        while let Some(latencies) = workers.join_next().await {
            measured.latencies.append(&mut latencies??);
        }
        measured.elapsed = start.elapsed();
        Ok(measured)
    }
}

impl Target {
    async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(match self {
            Self::Http(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Connection::Http(sender)
            }
            Self::Grpc(url) => {
                let client = HistoryServiceClient::new(load::connect(url).await?);
                Connection::Grpc(client.max_decoding_message_size(16 << 20))
            }
        })
    }
}

impl Connection {
    /// Sends a request and reads the whole response.
    async fn send(&mut self, request: &BenchRequest) -> anyhow::Result<()> {
        match self {
            Self::Http(sender) => {
                let uri = &request.uri;
                let request = Request::builder()
                    .method(request.method)
                    .uri(uri)
                    .header("host", "localhost")
                    .header("authorization", &request.authorization)
                    .body(Full::new(request.content.clone().into()))?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let status = response.status();
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    frame?;
                }
                ensure!(status.is_success(), "{uri}: {status}");
            }
            Self::Grpc(client) => match request.rpc.clone() {
                Rpc::Backfill(request) => drop(client.backfill(request).await?),
                Rpc::GetMissingEvents(request) => drop(client.get_missing_events(request).await?),
            },
        }
        Ok(())
    }
}

/// Calls the use case itself, on a number of threads of this process.
pub(crate) fn in_process(
    cx: &Context,
    requests: &[BenchRequest],
    threads: usize,
    duration: Duration,
) -> anyhow::Result<Measured> {
    let next = AtomicUsize::new(0);
    let queries: Vec<Query> = requests.iter().map(|it| it.rpc.query()).collect();
    let start = Instant::now();
    let worker = || {
        let mut latencies = Vec::new();
        while start.elapsed() < duration {
            let number = next.fetch_add(1, Ordering::Relaxed) % queries.len();
            let begun = Instant::now();
            drop(page(cx, queries.get(number).context("no request")?)?);
            latencies.push(begun.elapsed());
        }
        anyhow::Ok(latencies)
    };
    let latencies = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|it| it.join().expect("it does not panic")).collect::<Vec<_>>()
    });
    let mut measured = Measured { elapsed: start.elapsed(), ..Measured::default() };
    for latencies in latencies {
        measured.latencies.append(&mut latencies?);
    }
    Ok(measured)
}

/// Calls the use case once.
pub(crate) fn page(cx: &Context, query: &Query) -> anyhow::Result<ServedPage> {
    Ok(match query {
        Query::Backfill(request) => query::answer(cx, request, &Deadline::none())?,
        Query::GetMissingEvents(request) => query::answer(cx, request, &Deadline::none())?,
    })
}
