//! The time, taken as an argument. Nothing else in the gateway reads the system's clocks, so a
//! test decides what "now" is.
//!
//! There are two. What servers say of times is compared with the wall clock, which may be set, in
//! either direction. How long ago something was is measured by the steady one, so that no pause
//! grows or ends when somebody sets the other.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Tells the time in milliseconds since 1970, as Matrix counts it, and how much of it passes.
#[derive(Clone)]
pub struct Clock {
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    steady: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the clock that is passed in everywhere else")]
    pub fn system() -> Self {
        let start = Instant::now();
        let wall = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        Self::new(wall).with_steady(move || start.elapsed())
    }

    /// A clock that asks `now_ms` each time, for both.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let now_ms: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(now_ms);
        let steady = Arc::clone(&now_ms);
        Self { now_ms, steady: Arc::new(move || Duration::from_millis(steady())) }
    }

    /// The same clock, which measures how much time passes by something that nobody sets.
    #[must_use]
    pub fn with_steady(self, steady: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { steady: Arc::new(steady), ..self }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// The time since some moment that is the same each time.
    #[must_use]
    pub fn steady(&self) -> Duration {
        (self.steady)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
