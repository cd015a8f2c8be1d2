//! The time, passed in as a value. Nothing else in the gateway reads the system's clocks for decisions, so
//! a test decides what the time is.
//!
//! There are two clocks. Times in other servers' answers are compared with the wall clock, which can be
//! set forwards and backwards. Time spans are measured with the steady clock, so that no wait becomes
//! longer or shorter when the wall clock is set.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A wall clock and a steady clock.
#[derive(Clone)]
pub struct Clock {
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    steady: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The clocks of the operating system.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the clock that is passed in everywhere else")]
    pub fn system() -> Self {
        let start = Instant::now();
        let wall = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).expect("milliseconds since 1970 fit into 64 bits")
        };
        Self::new(wall).with_steady(move || start.elapsed())
    }

    /// A clock that calls `now_ms` for the wall clock and for the steady one.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let now_ms: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(now_ms);
        let steady = Arc::clone(&now_ms);
        Self { now_ms, steady: Arc::new(move || Duration::from_millis(steady())) }
    }

    /// The same wall clock with another steady clock.
    #[must_use]
    pub fn with_steady(self, steady: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { steady: Arc::new(steady), ..self }
    }

    /// The wall clock, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    /// The steady clock: the time since a fixed moment.
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
