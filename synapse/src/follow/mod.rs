//! Follows the database: takes the lease, copies what is missing, and then ticks.
//!
//! Whatever fails ends an attempt; the next one begins again from the cursor. So a restart, a failover
//! and a crash all take the same way.

mod attempt;
mod cursor;
mod import;
mod late;
mod plan;
mod progress;
mod reconcile;
mod rooms;
pub(crate) mod send;
mod server_keys;
mod small;
mod sweep;
mod tail;
mod window;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep},
};

use self::{
    attempt::Attempt,
    rooms::Rooms,
    send::StateReader,
    sweep::{SweepCursor, SweepFlags},
};
use crate::{
    check::Unfollowable,
    database::Databases,
    health,
    history::{History, HistoryError, HistoryOptions, message},
    metrics::Metrics,
    proto::v1::SetRoomsServedRequest,
};

/// The pause after the first attempt that fails. It doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// After an attempt of this duration, the next failure counts as the first.
const GOOD_ATTEMPT: Duration = Duration::from_secs(60);

/// How to follow, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FollowFlags {
    /// The name under which the cursor is stored in the history service.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_FEEDER_NAME",
        default_value = "synapse",
        value_name = "NAME"
    )]
    pub(crate) feeder_name: String,

    /// The time between two ticks, in milliseconds. A request that waits for an answer makes the next
    /// one begin at once.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_POLL",
        default_value_t = 100,
        value_name = "MILLISECONDS",
        value_parser = clap::value_parser!(u64).range(20..=10_000)
    )]
    pub(crate) poll: u64,

    /// Largest number of events per second that are copied. 0: as many as possible.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_IMPORT_RATE",
        default_value_t = 0,
        value_name = "EVENTS"
    )]
    pub(crate) import_rate: u64,

    /// Continue although the database is another one than that of the cursor, such as one that was
    /// restored with pg_restore. All rooms are compared before any is served.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_ACCEPT_OTHER_DATABASE")]
    pub(crate) accept_other_database: bool,

    /// How often all rooms are compared.
    #[command(flatten)]
    pub(crate) sweep: SweepFlags,
}

/// What the follower is started with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Synapse's databases.
    pub(crate) databases: Databases,
    /// The history service.
    pub(crate) history: HistoryOptions,
    /// How to follow.
    pub(crate) flags: FollowFlags,
    /// The address for metrics and health.
    pub(crate) metrics_listen: Option<SocketAddr>,
}

/// What all parts of an attempt to follow share.
pub(crate) struct Context {
    /// Synapse's databases.
    pub(crate) databases: Databases,
    /// The history service, with the lease.
    pub(crate) history: History,
    /// How to follow.
    pub(crate) flags: FollowFlags,
    /// The metrics.
    pub(crate) metrics: Metrics,
    /// What the sweeps have done. The tick stores it with the cursor.
    pub(crate) sweep: Mutex<SweepCursor>,
    /// Held from before rows are read until they are acknowledged, by everything that sends them: so a
    /// row that was read before never replaces one that was read later.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// Rooms that were deleted, to be copied whole again. They are marked as importing.
    pub(crate) import_again: Mutex<BTreeSet<String>>,
    /// Which rooms are served, and which are owed.
    pub(crate) rooms: Mutex<Rooms>,
    /// Held while the history service is told which rooms are served.
    telling: tokio::sync::Mutex<()>,
    /// Reads states, which may be in another database.
    states: tokio::sync::Mutex<StateReader>,
    /// Wakes the task that makes rooms equal.
    work: Notify,
}

impl Context {
    /// Tells the history service which rooms are served, where that has changed.
    ///
    /// # Errors
    /// When the history service fails.
    pub(crate) async fn tell(&self) -> anyhow::Result<()> {
        let _telling = self.telling.lock().await;
        let changes = lock(&self.rooms).changes();
        for change in changes {
            match self.tell_rooms(change.reason.into(), change.room_ids.clone()).await {
                Err(error) if error.code == tonic::Code::InvalidArgument => {
                    // One of them is no Matrix room id. It cannot be served anyway.
                    for room_id in &change.room_ids {
                        let told = self.tell_rooms(change.reason.into(), vec![room_id.clone()]);
                        match told.await {
                            Err(error) if error.code == tonic::Code::InvalidArgument => {
                                tracing::warn!(room_id, "a room is left out: {error}");
                            }
                            told => told?,
                        }
                    }
                }
                told => told?,
            }
            lock(&self.rooms).told(change);
        }
        Ok(())
    }

    async fn tell_rooms(&self, reason: i32, room_ids: Vec<String>) -> Result<(), HistoryError> {
        let request = SetRoomsServedRequest { room_ids, not_served_reason: reason };
        message(self.history.ingest.clone().set_rooms_served(request).await).map(drop)
    }
}

/// Locks what no panic can leave half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows until the process is stopped.
///
/// # Errors
/// When the database cannot be followed: another schema, missing rights, or another database than
/// before.
pub(crate) async fn run(start: Start) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    if let Some(address) = start.metrics_listen {
        health::serve(address, metrics.registry(), metrics.health()).await?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = follow(&start, &metrics) => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Everything that was not acknowledged is read again at the next start.
    tracing::info!("stopped");
    Ok(())
}

/// Attempts to follow, again and again. Logs when the reason of failures changes, not each failure.
async fn follow(start: &Start, metrics: &Metrics) -> anyhow::Result<()> {
    let mut pause = FIRST_PAUSE;
    let mut last_error = String::new();
    loop {
        let began = Instant::now();
        let Err(error) = Box::pin(Attempt { start, metrics }.run()).await else { return Ok(()) };
        if error.is::<Unfollowable>() {
            return Err(error);
        }
        if error.is::<tokio_postgres::Error>() {
            metrics.database_error();
        }
        if began.elapsed() >= GOOD_ATTEMPT {
            pause = FIRST_PAUSE;
            last_error.clear();
        }
        let text = format!("{error:#}");
        if text != last_error {
            tracing::warn!("cannot follow, and try again: {text}");
            last_error = text;
        }
        // Not all followers that wait for a server ask it at the same moment.
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
