//! Sweeps: compares all rooms with the history service, one group after the other, and mends what
//! differs.
//!
//! A sweep reads in slices on a connection of its own, with pauses, so that it uses a small share of that
//! connection. It holds `context.writing` only while it mends, so it delays ticks by a slice at most.

mod cursor;
mod slice;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use self::cursor::SweepCursor;
use self::{cursor::Intervals, slice::Sweeper};
use super::{Context, lock};

/// The pause while nothing is due.
const IDLE: Duration = Duration::from_millis(200);
/// The longest pause between two slices.
const MAX_PAUSE: Duration = Duration::from_secs(30);

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

    /// Largest share of the time of one database connection that comparisons use, in percent. A
    /// comparison that must end before rooms are served again makes no pauses.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_SWEEP_SHARE",
        default_value_t = 10,
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    pub(crate) sweep_share: u8,
}

/// Sweeps for as long as the follower follows. Changes the cursor in `context.sweep`.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn run(context: &Context) -> anyhow::Result<()> {
    let flags = &context.flags.sweep;
    let intervals = Intervals { flags: flags.sweep_flags_every, bytes: flags.sweep_json_every };
    let session = context.databases.main.connect().await?;
    let mut sweeper = Sweeper::new(context, session, intervals);
    loop {
        let began = Instant::now();
        let did_work = sweeper.slice().await?;
        let is_owed = lock(&context.sweep).owed.is_some();
        let pause = match did_work {
            false => IDLE,
            true if is_owed => Duration::ZERO,
            true => pause_after(began.elapsed(), flags.sweep_share),
        };
        sleep(pause).await;
    }
}

/// The pause after work, so that the work has this share of the time, in percent.
fn pause_after(work: Duration, share: u8) -> Duration {
    let share = u32::from(share.clamp(1, 100));
    let rest = 100_u32.saturating_sub(share);
    work.saturating_mul(rest).checked_div(share).unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_has_its_share_of_the_time() {
        let work = Duration::from_millis(100);
        assert_eq!(pause_after(work, 10), Duration::from_millis(900));
        assert_eq!(pause_after(work, 50), work);
        assert_eq!(pause_after(work, 100), Duration::ZERO);
        assert_eq!(pause_after(Duration::from_secs(60), 1), MAX_PAUSE);
    }
}
