//! When to stop working on an answer: after a point in time, or when the caller has left.
//!
//! A deadline is plain data. The code that works on an answer checks it before every step that may
//! take time, and fails with [`DeadlinePassed`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// When to stop working on an answer. Clones are cancelled together.
#[derive(Clone, Debug)]
pub struct Deadline {
    /// `None` if there is no end.
    at: Option<Instant>,
    /// Set when the caller has left.
    cancelled: Arc<AtomicBool>,
    /// The clock that `at` is compared with.
    now: fn() -> Instant,
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
        Self { at, cancelled: Arc::default(), now }
    }

    /// The point in time at which it passes; `None` if there is none.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// The same deadline, but at most this much time from now.
    #[must_use]
    pub fn within(&self, most: Duration) -> Self {
        let latest = (self.now)() + most;
        Self { at: Some(self.at.map_or(latest, |at| at.min(latest))), ..self.clone() }
    }

    /// Returns a guard for the caller: the deadline passes when the guard is dropped.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(Arc::clone(&self.cancelled))
    }

    /// Checks whether to go on. Reads the clock each time; that costs less than looking up one
    /// event.
    ///
    /// # Errors
    /// The deadline has passed.
    pub fn check(&self) -> Result<(), DeadlinePassed> {
        let has_passed =
            self.cancelled.load(Ordering::Relaxed) || self.at.is_some_and(|at| (self.now)() >= at);
        if has_passed { Err(DeadlinePassed) } else { Ok(()) }
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
