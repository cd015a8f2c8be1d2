//! When to stop working on an answer: after a point in time, or when the caller has left.
//!
//! A deadline is plain data. The code that works on an answer checks it before every step that may
//! take time, and fails with [`DeadlinePassed`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How many checks of a short deadline share one look at the clock: a check is made before each event,
/// and most events are in memory.
const CHECKS_PER_LOOK: u32 = 8;

/// This part of the time until a deadline is left to tell the caller that a database is away,
const ANSWER_SHARE: u32 = 10;
/// but not more than this.
const MOST_FOR_ANSWER: Duration = Duration::from_millis(200);

/// When to stop working on an answer.
#[derive(Debug)]
pub struct Deadline {
    /// `None` if there is no end.
    at: Option<Instant>,
    /// Set when the caller has left.
    cancelled: Arc<AtomicBool>,
    /// The clock that `at` is compared with.
    now: fn() -> Instant,
    /// The clock is read at the first check, and then once in this many checks.
    checks_per_look: u32,
    checks: AtomicU32,
}

/// The caller does not wait for the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlinePassed;

/// Cancels a deadline when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Arc<AtomicBool>);

impl Deadline {
    /// A deadline that never passes.
    #[must_use]
    pub fn none() -> Self {
        Self::new(None, Instant::now)
    }

    /// A deadline that passes at `at` on the given clock; `None` if only the caller's leaving ends
    /// the work.
    #[must_use]
    pub fn new(at: Option<Instant>, now: fn() -> Instant) -> Self {
        Self { at, cancelled: Arc::default(), now, checks_per_look: 1, checks: AtomicU32::new(0) }
    }

    /// The point in time at which it passes; `None` if there is none.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// The point in time until which a database that is away may be waited for: so long before the
    /// deadline that the caller still hears of it. `None` if the deadline has none.
    #[must_use]
    pub fn for_waiting(&self) -> Option<Instant> {
        let now = (self.now)();
        self.at
            .map(|at| at - (at.saturating_duration_since(now) / ANSWER_SHARE).min(MOST_FOR_ANSWER))
    }

    /// The same deadline, but at most a short time from now. It reads the clock once in eight checks.
    #[must_use]
    pub fn within(&self, most: Duration) -> Self {
        let latest = (self.now)() + most;
        Self {
            at: Some(self.at.map_or(latest, |at| at.min(latest))),
            cancelled: Arc::clone(&self.cancelled),
            now: self.now,
            checks_per_look: CHECKS_PER_LOOK,
            checks: AtomicU32::new(0),
        }
    }

    /// Returns a guard for the caller: the deadline passes when the guard is dropped.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(Arc::clone(&self.cancelled))
    }

    /// Checks whether to go on.
    ///
    /// # Errors
    /// The deadline has passed.
    pub fn check(&self) -> Result<(), DeadlinePassed> {
        let has_passed = self.cancelled.load(Ordering::Relaxed)
            || self.at.is_some_and(|at| self.is_look_due() && (self.now)() >= at);
        if has_passed { Err(DeadlinePassed) } else { Ok(()) }
    }

    /// Counts a check, and returns whether it reads the clock.
    fn is_look_due(&self) -> bool {
        // One thread works on an answer at a time, so the count need not be exact.
        let checks = self.checks.load(Ordering::Relaxed);
        self.checks.store(checks.wrapping_add(1), Ordering::Relaxed);
        checks.is_multiple_of(self.checks_per_look)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LOOKS: Cell<u32> = const { Cell::new(0) };
    }

    /// A clock that counts how often it is read.
    fn counted() -> Instant {
        LOOKS.set(LOOKS.get() + 1);
        Instant::now()
    }

    #[test]
    fn a_short_deadline_reads_the_clock_once_in_eight_checks() {
        let long = Deadline::new(None, counted);
        let short = long.within(Duration::from_secs(60));
        for (checks, looks) in [(1, 1), (7, 1), (1, 2), (7, 2), (1, 3)] {
            (0..checks).for_each(|_| short.check().unwrap());
            // The first look was that of `within`.
            assert_eq!(LOOKS.get(), 1 + looks);
        }
        assert_eq!(long.within(Duration::ZERO).check(), Err(DeadlinePassed));
    }

    #[test]
    fn a_part_of_the_time_is_left_to_tell_that_a_database_is_away() {
        let in_time = |time| Deadline::new(Some(Instant::now() + time), Instant::now);
        let left = |time| {
            let deadline = in_time(time);
            deadline.at().unwrap() - deadline.for_waiting().unwrap()
        };
        assert_eq!(left(Duration::from_secs(60)), MOST_FOR_ANSWER);
        let part = left(Duration::from_secs(1));
        assert!(part > Duration::from_millis(50) && part <= Duration::from_millis(100), "{part:?}");
        assert_eq!(left(Duration::ZERO), Duration::ZERO);
        assert_eq!(Deadline::none().for_waiting(), None);
    }

    #[test]
    fn a_deadline_passes_when_its_caller_leaves() {
        let deadline = Deadline::none();
        let short = deadline.within(Duration::from_secs(60));
        let caller = deadline.cancel_on_drop();
        assert_eq!(deadline.check(), Ok(()));
        drop(caller);
        assert_eq!(deadline.check(), Err(DeadlinePassed));
        assert_eq!(short.check(), Err(DeadlinePassed));
    }
}
