//! The connections to PostgreSQL: reads that go out together, and transactions of one round trip.
//!
//! The store is called from threads that may wait; the connections are served by a small runtime of
//! their own. Every wait has a bound: the deadline of the work under way ([`until`]), or the patience of
//! the store.

mod check;
mod connection;
mod failure;
mod statement;

use std::{
    cell::Cell,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::Poll,
    time::{Duration, Instant},
};

use backscroll_postgres::Connector;
use futures_util::future::{join3, maybe_done};
use tokio::{runtime::Runtime, sync::Semaphore, time::timeout_at};
use tokio_postgres::{Client, Row, types::ToSql};

pub(super) use self::{
    check::{SCHEMA_VERSION, note_version, version_in},
    connection::Epoch,
    failure::Failure,
    statement::{Param, Statement, UuidBytes},
};
use self::{
    connection::{Connection, Connections},
    failure::FailureKind,
};
use crate::store::{EngineError, StoreError};

/// What makes the tables.
pub(super) const SCHEMA: &str = include_str!("schema.sql");

/// How often a transaction that the server gave up in favour of another is sent.
const MAX_SERIALISATIONS: u32 = 5;
/// The wait before the first repetition. It doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// The longest wait between repetitions.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Threads that serve the connections.
const THREADS: usize = 2;
/// Connections for transactions.
const COMMITTING: usize = 4;

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work`; no wait for the database that it begins lasts beyond `deadline`.
pub fn until<T>(deadline: Instant, work: impl FnOnce() -> T) -> T {
    struct Reset(Option<Instant>);
    impl Drop for Reset {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let _reset = Reset(DEADLINE.replace(Some(deadline)));
    work()
}

/// What one round trip has brought.
pub(super) struct Flight {
    /// The rows of each statement.
    pub(super) rows: Vec<Vec<Row>>,
    /// The database that they were read from.
    pub(super) epoch: Epoch,
}

/// What one statement has brought.
pub(super) struct Selected {
    pub(super) rows: Vec<Row>,
    /// The database that they were read from.
    pub(super) epoch: Epoch,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transacted {
    /// It is applied, and on disk.
    Done,
    /// A guard has failed: a value that must not be null was, or a row existed that must not. Nothing is
    /// applied.
    GuardFailed,
    /// The connection was lost before the answer came: it is applied, or not, or will be.
    Unclear(String),
}

/// Counts of the connections to one database.
#[derive(Debug, Default)]
pub(super) struct ConnectionCounts {
    pub(super) round_trips: AtomicU64,
    pub(super) lost_connections: AtomicU64,
}

/// The connections to one database.
pub(super) struct Database {
    shared: Arc<SharedConnections>,
    patience: Duration,
    /// Dropped in the background, since a runtime must not be dropped where one runs.
    runtime: Option<Runtime>,
}

struct SharedConnections {
    reading: Connections,
    committing: Connections,
    may_commit: Semaphore,
    counts: ConnectionCounts,
}

impl Database {
    /// A database to which there are no connections yet.
    fn open(connector: Connector, patience: Duration) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| EngineError::Failed(format!("no threads for PostgreSQL: {error}")))?;
        let connector = Arc::new(connector);
        let shared = SharedConnections {
            reading: Connections::new(Arc::clone(&connector)),
            committing: Connections::new(connector),
            may_commit: Semaphore::new(COMMITTING),
            counts: ConnectionCounts::default(),
        };
        Ok(Self { shared: Arc::new(shared), patience, runtime: Some(runtime) })
    }

    /// Sends statements that only read, all in one round trip, and returns the rows of each. They are
    /// sent again while the database is away. Each sees the database at another moment, in their order.
    ///
    /// # Errors
    /// [`EngineError::Away`] when the database does not answer in time.
    pub(super) fn flight(&self, reads: Vec<Statement>) -> Result<Flight, StoreError> {
        let deadline = self.deadline();
        let shared = Arc::clone(&self.shared);
        let flight = self.wait(deadline, async move { shared.flight(&reads, deadline).await });
        flight
            .unwrap_or_else(|| Err(Failure::too_late("it did not answer in time")))
            .map_err(Failure::into_error)
    }

    /// Sends one statement that only reads: as [`flight`](Self::flight).
    ///
    /// # Errors
    /// As [`flight`](Self::flight).
    pub(super) fn select(&self, read: Statement) -> Result<Selected, StoreError> {
        let Flight { rows, epoch } = self.flight(vec![read])?;
        Ok(Selected { rows: rows.into_iter().next().unwrap_or_default(), epoch })
    }

    /// Applies statements as one transaction, in one round trip. What it returns is on disk.
    ///
    /// # Errors
    /// [`EngineError::Away`] when the database could not be reached in time: nothing is applied.
    pub(super) fn transact(&self, statements: Vec<Statement>) -> Result<Transacted, StoreError> {
        let deadline = self.deadline();
        let shared = Arc::clone(&self.shared);
        let work = async move { shared.transact(&statements, deadline).await };
        match self.wait(deadline, work) {
            Some(transacted) => transacted.map_err(Failure::into_error),
            None => Ok(Transacted::Unclear("it did not answer in time".to_owned())),
        }
    }

    /// What was counted since the database was opened.
    pub(super) fn counts(&self) -> &ConnectionCounts {
        &self.shared.counts
    }

    fn deadline(&self) -> Instant {
        let patient = now() + self.patience;
        DEADLINE.get().map_or(patient, |it| it.min(patient))
    }

    /// Runs `work` on the threads of the connections; `None` if it did not end a moment after `deadline`.
    fn wait<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        // The work ends by itself at the deadline.
        let runtime = self.runtime.as_ref()?;
        drop(runtime.spawn(async move { drop(sender.send(work.await)) }));
        let grace = Duration::from_secs(1);
        receiver.recv_timeout(deadline.saturating_duration_since(now()) + grace).ok()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl SharedConnections {
    async fn flight(&self, reads: &[Statement], deadline: Instant) -> Result<Flight, Failure> {
        let mut pause = Pause::default();
        loop {
            let failure = match self.reading.least_busy(deadline).await {
                Ok(connection) => match self.fly(&connection, reads, deadline).await {
                    Ok(flight) => return Ok(flight),
                    Err(failure) => {
                        if failure.kind == FailureKind::Away {
                            self.counts.lost_connections.fetch_add(1, Ordering::Relaxed);
                            self.reading.drop(&connection).await;
                        }
                        failure
                    }
                },
                Err(failure) => failure,
            };
            if failure.kind != FailureKind::Away || !pause.wait(deadline).await {
                return Err(failure);
            }
        }
    }

    async fn fly(
        &self,
        connection: &Connection,
        reads: &[Statement],
        deadline: Instant,
    ) -> Result<Flight, Failure> {
        let _busy = connection.busy();
        let identity = connection.identity_if_old();
        self.counts.round_trips.fetch_add(1, Ordering::Relaxed);
        let all = reads.iter().chain(&identity).map(|it| query(&connection.client, it));
        let answers = timeout_at(deadline.into(), in_order(all)).await;
        let answers = answers.map_err(|_| Failure::away("it did not answer in time"))?;
        let mut rows = answers.into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::from)?;
        let epoch = match identity {
            Some(_) => connection.learn(&rows.pop().unwrap_or_default())?,
            None => connection.epoch(),
        };
        Ok(Flight { rows, epoch })
    }

    async fn transact(
        &self,
        statements: &[Statement],
        deadline: Instant,
    ) -> Result<Transacted, Failure> {
        let permit = timeout_at(deadline.into(), self.may_commit.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Failure::away("all connections for commits are busy"));
        };
        let mut pause = Pause::default();
        let mut serialisations = 0;
        loop {
            let failure = match self.committing.take(deadline).await {
                Ok(connection) => match self.commit(&connection, statements, deadline).await {
                    Ok(transacted) => {
                        match transacted {
                            Transacted::Unclear(_) => {
                                self.counts.lost_connections.fetch_add(1, Ordering::Relaxed);
                            }
                            Transacted::Done | Transacted::GuardFailed => {
                                self.committing.give_back(connection).await;
                            }
                        }
                        return Ok(transacted);
                    }
                    Err(failure) => {
                        if failure.kind != FailureKind::Away {
                            self.committing.give_back(connection).await;
                        }
                        failure
                    }
                },
                Err(failure) => failure,
            };
            serialisations += u32::from(failure.kind == FailureKind::Serialisation);
            let is_transient = match failure.kind {
                FailureKind::Away => true,
                FailureKind::Serialisation => serialisations < MAX_SERIALISATIONS,
                FailureKind::Guard | FailureKind::Other => false,
            };
            if !is_transient || !pause.wait(deadline).await {
                return Err(failure);
            }
        }
    }

    /// Sends a transaction over a connection that no other transaction uses.
    async fn commit(
        &self,
        connection: &Connection,
        statements: &[Statement],
        deadline: Instant,
    ) -> Result<Transacted, Failure> {
        let client = &connection.client;
        self.counts.round_trips.fetch_add(1, Ordering::Relaxed);
        let work = async {
            // Futures are polled in this order, and each sends its statement when it is polled first.
            let begin = client.batch_execute("begin");
            let all = in_order(statements.iter().map(|it| query(client, it)));
            let commit = client.batch_execute("commit");
            join3(begin, all, commit).await
        };
        let Ok((begun, answers, committed)) = timeout_at(deadline.into(), work).await else {
            return Ok(Transacted::Unclear("it did not answer in time".to_owned()));
        };
        let answers = answers.into_iter().map(|it| it.map(drop));
        let failed = std::iter::once(begun).chain(answers).find_map(Result::err);
        match failed.map(Failure::from) {
            // The server has refused a statement, and with it the whole transaction.
            Some(failure) if failure.is_from_server => match failure.kind {
                FailureKind::Guard => Ok(Transacted::GuardFailed),
                _ => Err(failure),
            },
            Some(failure) => Ok(Transacted::Unclear(failure.text)),
            None => match committed.map_err(Failure::from) {
                Ok(()) => Ok(Transacted::Done),
                Err(failure) if failure.kind == FailureKind::Serialisation => Err(failure),
                // Citus answers with an error if the server of the room fails in the middle of it.
                Err(failure) => Ok(Transacted::Unclear(failure.text)),
            },
        }
    }
}

/// Sends one statement when it is polled first.
async fn query(client: &Client, it: &Statement) -> Result<Vec<Row>, tokio_postgres::Error> {
    let params = it.params.iter().map(|param| {
        let value: &(dyn ToSql + Sync) = param;
        (value, param.of_type())
    });
    let params: Vec<_> = params.collect();
    client.query_typed(&it.sql, &params).await
}

/// Waits for all futures. They are polled in their order, so that their statements are sent in it.
async fn in_order<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = futures.map(|it| Box::pin(maybe_done(it))).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for it in &mut all {
            is_done &= it.as_mut().poll(context).is_ready();
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    all.iter_mut().filter_map(|it| it.as_mut().take_output()).collect()
}

/// The wait between two attempts.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_WAIT)
    }
}

impl Pause {
    /// Waits, each time for longer, about half of the time at random; `false` if the deadline comes first.
    async fn wait(&mut self, deadline: Instant) -> bool {
        let random = rand::random_range(0.5..1.0);
        let until = now() + self.0.mul_f64(random);
        self.0 = LONGEST_WAIT.min(self.0 * 2);
        if until >= deadline {
            return false;
        }
        tokio::time::sleep_until(until.into()).await;
        true
    }
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
