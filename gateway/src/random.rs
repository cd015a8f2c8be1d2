//! Random numbers, passed in as a value: a test decides what they are.

use std::{fmt, sync::Arc};

/// A source of random numbers.
#[derive(Clone)]
pub struct Random(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Random {
    /// The thread's random number generator.
    #[must_use]
    pub fn system() -> Self {
        Self::new(rand::random::<f64>)
    }

    /// A source that calls `fraction` for each number, which must be at least 0 and less than 1.
    pub fn new(fraction: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(fraction))
    }

    /// A number of at least 0 and less than 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        (self.0)()
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}
