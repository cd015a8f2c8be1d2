//! Follows the database: takes the lease, copies what is missing, and then ticks.
//!
//! Whatever fails ends an attempt; the next one begins again from the cursor. So a restart, a failover
//! and a crash all take the same way.

mod import;
mod late;
mod reconcile;
mod send;
mod sweep;

use std::{net::SocketAddr, sync::Mutex};

use self::sweep::{SweepCursor, SweepFlags};
use crate::{
    database::Databases,
    health,
    history::{History, HistoryOptions},
    metrics::Metrics,
};

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
}

/// Follows until the process is stopped.
///
/// # Errors
/// When the database cannot be followed: another schema, missing rights, or another database than
/// before.
pub(crate) async fn run(start: Start) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    if let Some(address) = start.metrics_listen {
        health::serve(address, &metrics).await?;
    }
    anyhow::bail!("not implemented yet")
}
