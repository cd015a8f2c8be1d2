//! Connections, opened when they are needed and dropped when they fail, and which database they lead to.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use backscroll_postgres::Connector;
use tokio::{sync::Mutex, time::timeout_at};
use tokio_postgres::{Client, Row};

use super::{Failure, Statement, now, query};

/// The most connections that serve reads.
const READING: usize = 8;
/// A connection is asked which database it leads to when the last answer is older.
const IDENTITY_AGE: Duration = Duration::from_secs(1);
/// Which database this is, and its line of history: another one after a standby was promoted. It fails
/// on a standby, which is what is wanted: a standby may not know of a redaction yet.
const IDENTITY: &str = "select (select system_identifier from pg_control_system()), \
     substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// Which database this is: its cluster, and the line of its history. Another one after a standby was
/// promoted, which may not have all commits of the server that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Epoch {
    system: i64,
    timeline: u32,
}

/// A connection that works, as far as is known.
pub(super) struct Connection {
    pub(super) client: Client,
    identity: RwLock<Identity>,
    users: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Identity {
    epoch: Epoch,
    since: Instant,
}

/// Counts one user of a connection.
pub(super) struct Busy<'c>(&'c Connection);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    async fn open(connector: &Connector) -> Result<Self, Failure> {
        let client = connector.connect().await.map_err(Failure::from)?;
        let rows = query(&client, &identity()).await.map_err(Failure::from)?;
        let identity = RwLock::new(Identity { epoch: epoch_in(&rows)?, since: now() });
        Ok(Self { client, identity, users: AtomicUsize::new(0) })
    }

    /// Counts one more user until what is returned is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.users.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// The database that the connection leads to, as far as is known.
    pub(super) fn epoch(&self) -> Epoch {
        self.known().epoch
    }

    /// The question which database this is, if it was not asked lately: between this program and the
    /// server there may be a proxy, which leads to another server after a failover.
    pub(super) fn identity_if_old(&self) -> Option<Statement> {
        let is_old = now().saturating_duration_since(self.known().since) > IDENTITY_AGE;
        is_old.then(identity)
    }

    /// Takes note of the answer to the question which database this is.
    pub(super) fn learn(&self, rows: &[Row]) -> Result<Epoch, Failure> {
        let epoch = epoch_in(rows)?;
        let mut known = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        *known = Identity { epoch, since: now() };
        Ok(epoch)
    }

    fn known(&self) -> Identity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity() -> Statement {
    Statement::new(IDENTITY, Vec::new())
}

fn epoch_in(rows: &[Row]) -> Result<Epoch, Failure> {
    let read = || {
        let row = rows.first()?;
        let system = row.try_get::<_, i64>(0).ok()?;
        let timeline = row.try_get::<_, &str>(1).ok()?;
        Some(Epoch { system, timeline: u32::from_str_radix(timeline, 16).ok()? })
    };
    read().ok_or_else(|| Failure::other("the server does not say which database it is"))
}

/// Connections to one server.
pub(super) struct Connections {
    connector: Arc<Connector>,
    shared: [Mutex<Option<Arc<Connection>>>; READING],
    idle: Mutex<Vec<Connection>>,
    next: AtomicUsize,
}

impl Connections {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        let shared = std::array::from_fn(|_| Mutex::new(None));
        Self { connector, shared, idle: Mutex::default(), next: AtomicUsize::new(0) }
    }

    /// A connection that others may use too: an idle one, a new one, or the one with the fewest users.
    pub(super) async fn least_busy(&self, deadline: Instant) -> Result<Arc<Connection>, Failure> {
        let mut best: Option<Arc<Connection>> = None;
        let mut free = None;
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        for offset in 0..READING {
            let Some(slot) = self.shared.get((start + offset) % READING) else { continue };
            // A slot that is locked is being connected.
            let Ok(held) = slot.try_lock() else { continue };
            match &*held {
                Some(it) if !it.client.is_closed() => {
                    let users = it.users.load(Ordering::Relaxed);
                    if users == 0 {
                        return Ok(Arc::clone(it));
                    }
                    if best.as_ref().is_none_or(|best| best.users.load(Ordering::Relaxed) > users) {
                        best = Some(Arc::clone(it));
                    }
                }
                Some(_) | None => free = Some(slot),
            }
        }
        match (free, best) {
            (Some(slot), _) => self.connected(slot, deadline).await,
            (None, Some(best)) => Ok(best),
            // All slots are being connected: wait for one.
            (None, None) => match self.shared.get(start % READING) {
                Some(slot) => self.connected(slot, deadline).await,
                None => Err(Failure::other("there are no connections")),
            },
        }
    }

    async fn connected(
        &self,
        slot: &Mutex<Option<Arc<Connection>>>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        let too_late = |_| Failure::away("it cannot be reached in time");
        let mut held = timeout_at(deadline.into(), slot.lock()).await.map_err(too_late)?;
        if let Some(it) = held.as_ref().filter(|it| !it.client.is_closed()) {
            return Ok(Arc::clone(it));
        }
        let opened = timeout_at(deadline.into(), Connection::open(&self.connector)).await;
        let opened = Arc::new(opened.map_err(too_late)??);
        *held = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Forgets a shared connection that has failed.
    pub(super) async fn drop(&self, failed: &Arc<Connection>) {
        for slot in &self.shared {
            let mut held = slot.lock().await;
            if held.as_ref().is_some_and(|it| Arc::ptr_eq(it, failed)) {
                *held = None;
            }
        }
    }

    /// A connection that no other transaction uses.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Connection, Failure> {
        while let Some(idle) = self.idle.lock().await.pop() {
            if !idle.client.is_closed() {
                return Ok(idle);
            }
        }
        let opened = timeout_at(deadline.into(), Connection::open(&self.connector)).await;
        opened.map_err(|_| Failure::away("it cannot be reached in time"))?
    }

    /// Keeps a connection for the next transaction.
    pub(super) async fn give_back(&self, connection: Connection) {
        self.idle.lock().await.push(connection);
    }
}
