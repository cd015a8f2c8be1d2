//! The progress of copying rooms: a line in the log now and then, and a bar on a terminal.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// The time between two lines in the log.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rooms that are still to be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CopiesLeft {
    /// Number of rooms.
    pub(crate) rooms: u64,
    /// Number of their events.
    pub(crate) events: u64,
}

/// The progress of copying rooms.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    logged: Instant,
    copied: u64,
}

impl Progress {
    /// Begins to count.
    pub(crate) fn new() -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = "{wide_bar} {pos}/{len} events, {msg}, {eta} left";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), target).with_style(style);
        let now = Instant::now();
        Self { bar, began: now, logged: now, copied: 0 }
    }

    /// Notes that events were copied, and what is left.
    pub(crate) fn note(&mut self, copied: usize, left: CopiesLeft) {
        let copied = u64::try_from(copied).unwrap_or(u64::MAX);
        self.copied = self.copied.saturating_add(copied);
        self.bar.set_length(self.copied.saturating_add(left.events));
        self.bar.set_position(self.copied);
        self.bar.set_message(format!("{} rooms left", left.rooms));
        let elapsed = self.began.elapsed();
        let events_per_second = per_second(self.copied, elapsed);
        if left == CopiesLeft::default() {
            self.bar.finish_and_clear();
            if self.copied > 0 {
                tracing::info!(events = self.copied, events_per_second, "all rooms are copied");
            }
            *self = Self::new();
        } else if self.logged.elapsed() >= INTERVAL {
            self.logged = Instant::now();
            tracing::info!(
                rooms_left = left.rooms,
                events_left = left.events,
                events_per_second,
                seconds_left = left.events / events_per_second.max(1),
                "copying rooms"
            );
        }
    }
}

/// Number of events in each second.
fn per_second(events: u64, elapsed: Duration) -> u64 {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    events.saturating_mul(1_000) / milliseconds
}
