//! Until when an answer is wanted. The doors know the clock and whether the caller is still
//! there; below them this is one question, asked before every piece of work that may not be worth
//! doing any more.

use std::{fmt, sync::Arc};

/// Until when an answer is wanted.
#[derive(Clone)]
pub struct Deadline(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

/// Nobody waits for the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlinePassed;

impl Deadline {
    /// An answer that is always wanted.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Asks `has_passed` each time.
    pub fn new(has_passed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(has_passed)))
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub fn check(&self) -> Result<(), DeadlinePassed> {
        match &self.0 {
            Some(has_passed) if has_passed() => Err(DeadlinePassed),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Deadline" } else { "Deadline::none" })
    }
}
