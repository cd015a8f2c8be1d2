//! Asking: as fast as answers come (closed loop), or at times set beforehand (open loop), where a
//! question's time begins when it was due, not when somebody came to ask it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
    questions::{Decoded, Plain, Question},
};

/// Where questions are asked.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    Http(SocketAddr),
    Grpc(String),
}

enum Connection {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(HistoryServiceClient<Channel>),
}

/// What came of asking for a while.
#[derive(Default)]
pub(crate) struct Asked {
    /// How long each took.
    pub(crate) times: Vec<Duration>,
    pub(crate) elapsed: Duration,
}

/// Questions to be asked by so many connections.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) door: Door,
    pub(crate) questions: Arc<Vec<Question>>,
    pub(crate) connections: usize,
}

impl Asking {
    /// Asks as fast as answers come.
    pub(crate) async fn closed(&self, duration: Duration) -> anyhow::Result<Asked> {
        let connections = self.connect().await?;
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        self.run((start, connections), move || {
            let next = Arc::clone(&next);
            async move {
                (start.elapsed() < duration)
                    .then(|| (next.fetch_add(1, Ordering::Relaxed), Instant::now()))
            }
        })
        .await
    }

    /// Asks so many times a second, at even distances.
    pub(crate) async fn open(&self, duration: Duration, rate: u32) -> anyhow::Result<Asked> {
        let connections = self.connect().await?;
        let workers = connections.len();
        let distance = Duration::from_secs(1) / rate.max(1);
        let due = Arc::new(Semaphore::new(0));
        let (next, told) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&due));
        let start = Instant::now();
        let when = move |nth: usize| {
            let when = start + distance * u32::try_from(nth).unwrap_or(u32::MAX);
            (when < start + duration).then_some(when)
        };
        // A thread of its own: the runtime's timer counts milliseconds.
        let clock = std::thread::spawn(move || {
            for due in (0..).map_while(when) {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                told.add_permits(1);
            }
            // So that everybody learns that it is over.
            told.add_permits(workers);
        });
        let asked = self
            .run((start, connections), move || {
                let (next, due) = (Arc::clone(&next), Arc::clone(&due));
                async move {
                    due.acquire().await.ok()?.forget();
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    Some((nth, when(nth)?))
                }
            })
            .await;
        clock.join().ok().context("the clock stopped")?;
        asked
    }

    async fn connect(&self) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(self.door.connect().await?);
        }
        Ok(connections)
    }

    /// Asks whatever `next` says, until it says nothing.
    async fn run<F>(
        &self,
        (start, connections): (Instant, Vec<Connection>),
        next: impl Fn() -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Asked>
    where
        F: Future<Output = Option<(usize, Instant)>> + Send,
    {
        let mut workers = JoinSet::new();
        for mut connection in connections {
            let (questions, next) = (Arc::clone(&self.questions), next.clone());
            workers.spawn(async move {
                let mut times = Vec::new();
                while let Some((nth, due)) = next().await {
                    let question = questions.get(nth % questions.len()).context("no question")?;
                    connection.ask(question).await?;
                    times.push(due.elapsed());
                }
                anyhow::Ok(times)
            });
        }
        let mut asked = Asked::default();
        while let Some(times) = workers.join_next().await {
            asked.times.append(&mut times??);
        }
        asked.elapsed = start.elapsed();
        Ok(asked)
    }
}

impl Door {
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
    /// Asks, and reads the answer to its end.
    async fn ask(&mut self, question: &Question) -> anyhow::Result<()> {
        match self {
            Self::Http(sender) => {
                let request = Request::builder()
                    .method(question.method)
                    .uri(&question.uri)
                    .header("host", "localhost")
                    .header("authorization", &question.authorization)
                    .body(Full::new(question.content.clone().into()))?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let (status, mut body) = (response.status(), response.into_body());
                while let Some(frame) = body.frame().await {
                    frame?;
                }
                ensure!(status.is_success(), "{}: {status}", question.uri);
            }
            Self::Grpc(client) => match question.plain.clone() {
                Plain::Backfill(request) => drop(client.backfill(request).await?),
                Plain::MissingEvents(request) => drop(client.get_missing_events(request).await?),
            },
        }
        Ok(())
    }
}

/// Asks the use case itself, on so many threads.
pub(crate) fn in_process(
    cx: &Context,
    questions: &[Question],
    (threads, duration): (usize, Duration),
) -> anyhow::Result<Asked> {
    let next = AtomicUsize::new(0);
    let decoded: Vec<Decoded> = questions.iter().map(|it| it.plain.decoded()).collect();
    let start = Instant::now();
    let ask = || {
        let mut times = Vec::new();
        while start.elapsed() < duration {
            let nth = next.fetch_add(1, Ordering::Relaxed) % decoded.len();
            let begun = Instant::now();
            drop(answer(cx, decoded.get(nth).context("no question")?)?);
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    };
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|it| it.join().expect("it does not panic")).collect::<Vec<_>>()
    });
    let mut asked = Asked { elapsed: start.elapsed(), ..Asked::default() };
    for times in times {
        asked.times.append(&mut times?);
    }
    Ok(asked)
}

/// One answer.
pub(crate) fn answer(cx: &Context, question: &Decoded) -> anyhow::Result<ServedPage> {
    Ok(match question {
        Decoded::Backfill(question) => query::answer(cx, question, &Deadline::none())?,
        Decoded::MissingEvents(question) => query::answer(cx, question, &Deadline::none())?,
    })
}
