//! Ends the process when a write to the store does not return. sled 0.34.7 can wait for itself for
//! ever while it writes; then no request is answered any more, and only opening the store again
//! helps. Nothing that was acknowledged is lost: it was flushed before.

use std::{
    collections::BTreeMap,
    process,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::sync::{lock, wait_timeout};

/// Watches operations in a thread of its own, which ends when this is dropped.
pub(super) struct Watchdog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    operations: Mutex<Operations>,
    /// Notified when the watchdog is dropped.
    ended: Condvar,
}

/// The operations under way.
#[derive(Default)]
struct Operations {
    /// When each began and what it is, by its number.
    begun: BTreeMap<u64, (Instant, &'static str)>,
    next: u64,
    is_closed: bool,
}

/// An operation under way; dropped when it returns.
pub(super) struct Operation<'a> {
    watchdog: &'a Watchdog,
    number: u64,
}

impl Watchdog {
    /// Ends the process with exit code 1 when an operation takes longer than `bound`.
    pub(super) fn start(bound: Duration) -> Self {
        Self::with(bound, move |what| {
            tracing::error!(
                seconds = bound.as_secs(),
                "{what} did not return in time; the process ends, since only opening the store \
                 again helps; everything that was acknowledged is on disk"
            );
            process::exit(1);
        })
    }

    fn with(bound: Duration, act: impl Fn(&'static str) + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        thread::spawn(move || seen.follow(bound, act));
        Self(shared)
    }

    /// Begins an operation; `what` is a subject such as "a flush of the store".
    pub(super) fn watch(&self, what: &'static str) -> Operation<'_> {
        let mut operations = lock(&self.0.operations);
        let number = operations.next;
        operations.next += 1;
        operations.begun.insert(number, (Instant::now(), what));
        Operation { watchdog: self, number }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        lock(&self.0.operations).is_closed = true;
        self.0.ended.notify_all();
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        lock(&self.watchdog.0.operations).begun.remove(&self.number);
    }
}

impl Shared {
    fn follow(&self, bound: Duration, act: impl Fn(&'static str)) {
        let mut operations = lock(&self.operations);
        while !operations.is_closed {
            let oldest = operations.begun.first_key_value().map(|(_, it)| *it);
            let left = oldest.map_or(bound, |(begun, _)| bound.saturating_sub(begun.elapsed()));
            if let Some((_, what)) = oldest.filter(|_| left.is_zero()) {
                return act(what);
            }
            operations = wait_timeout(&self.ended, operations, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn watchdog(bound: Duration) -> (Watchdog, mpsc::Receiver<&'static str>) {
        let (to_us, heard) = mpsc::channel();
        (Watchdog::with(bound, move |what| to_us.send(what).unwrap()), heard)
    }

    #[test]
    fn what_does_not_return_is_named() {
        let (watchdog, heard) = watchdog(Duration::from_millis(20));
        drop(watchdog.watch("a commit"));
        let _hangs = watchdog.watch("a flush");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok("a flush"));
    }

    #[test]
    fn what_returns_in_time_is_not() {
        let (watchdog, heard) = watchdog(PATIENCE);
        for _ in 0..1_000 {
            drop(watchdog.watch("a flush"));
        }
        drop(watchdog);
        // The thread has ended, without a word.
        assert_eq!(heard.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
