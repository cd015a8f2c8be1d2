//! Bounded waits: a regression fails the test instead of hanging it.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits on this thread until a condition holds.
///
/// # Panics
/// When the condition does not hold after `bound`. The message names `what`.
#[track_caller]
pub fn within(bound: Duration, what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(bound, holds), "after {bound:?} still waiting until {what}");
}

/// Waits on this thread until a condition holds, or until `bound` is over. Returns whether it holds.
#[expect(clippy::disallowed_methods, reason = "the condition has no event to wait for")]
pub fn holds_within(bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() >= bound {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

/// Waits until a future is ready, and returns its output.
///
/// # Panics
/// When the future is not ready after `bound`. The message names `what`.
pub async fn within_async<F: Future>(bound: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(bound, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("after {bound:?} still waiting until {what}"),
    }
}
