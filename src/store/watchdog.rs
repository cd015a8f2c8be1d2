//! Ends the process when a write to the store does not return. sled 0.34.7 can wait for itself for
//! ever while it writes; then nobody is answered any more, and only opening the store again helps.
//! Nothing is lost by it: what waits for a flush has not been acknowledged.

use std::{
    collections::BTreeMap,
    process,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Follows what is under way, in a thread of its own that ends when this is dropped.
pub(super) struct Watchdog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    under_way: Mutex<UnderWay>,
    ended: Condvar,
}

#[derive(Default)]
struct UnderWay {
    /// When each began, and what it is, by number.
    begun: BTreeMap<u64, (Instant, &'static str)>,
    next: u64,
    closed: bool,
}

/// Something under way; it has returned when this is dropped.
pub(super) struct Watched<'a> {
    watchdog: &'a Watchdog,
    number: u64,
}

impl Watchdog {
    /// Ends the process with exit code 1 when something takes longer than `bound`.
    pub(super) fn start(bound: Duration) -> Self {
        Self::with(bound, move |what| {
            tracing::error!(
                seconds = bound.as_secs(),
                "{what} did not return in time; stopping, since only opening the store again \
                 helps; nothing that was acknowledged is lost"
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

    /// Begins something; `what` is a subject such as "a flush of the store".
    pub(super) fn watch(&self, what: &'static str) -> Watched<'_> {
        let mut under_way = self.0.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.begun.insert(number, (Instant::now(), what));
        Watched { watchdog: self, number }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.ended.notify_all();
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watchdog.0.lock().begun.remove(&self.number);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, bound: Duration, act: impl Fn(&'static str)) {
        let mut under_way = self.lock();
        while !under_way.closed {
            let oldest = under_way.begun.first_key_value().map(|(_, it)| *it);
            let left = oldest.map_or(bound, |(begun, _)| bound.saturating_sub(begun.elapsed()));
            if let Some((_, what)) = oldest.filter(|_| left.is_zero()) {
                return act(what);
            }
            let waited = self.ended.wait_timeout(under_way, left);
            under_way = waited.unwrap_or_else(PoisonError::into_inner).0;
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
