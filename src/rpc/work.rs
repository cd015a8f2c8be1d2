//! Answering questions: so many at the same time, some waiting, and none whose caller has gone or
//! whose deadline has passed.
//!
//! A place is given back when its work has ended, not when its caller leaves: callers that come,
//! give up and come again find the places taken instead of piling up work behind them.
//!
//! Work is done off the async threads, since it may wait for the disk. The way there and back costs
//! as much as a usual answer, whose parts are all in memory. So [`Work::run_soon`] first tries for
//! [`A_MOMENT`] on the thread that it is called on, unless that is the last one left for everything
//! else, and begins anew elsewhere if the moment was not enough.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{Status, metadata::MetadataMap};

use super::{blocking, failed, status};
use crate::{deadline::Deadline, metrics::Metrics};

/// Questions answered at the same time, for each core: some of them wait for the disk.
const PLACES_PER_CORE: usize = 4;
/// Questions that may wait for a place.
const MAX_WAITING: usize = 1_024;

/// How long an async thread works on a question at most, but for what it is in the middle of: many
/// times what a usual answer takes. A caller that leaves meanwhile is not noticed before.
const A_MOMENT: Duration = Duration::from_millis(1);
/// The clock is asked once in so many checks: a check is made before each event.
const CHECKS_PER_LOOK: u32 = 8;

/// What is left of the caller's time for the refusal to reach it, so that it hears
/// DEADLINE_EXCEEDED of us and not CANCELLED of the transport.
const FOR_THE_WAY_BACK: Duration = Duration::from_millis(10);

/// The places.
pub(super) struct Work {
    metrics: Metrics,
    places: Arc<Semaphore>,
    /// As many as have a place or may wait for one.
    admitted: Semaphore,
    /// Async threads that may work on a question: all but one, which is there for everything else
    /// when all the others wait for the disk.
    threads: Semaphore,
}

impl Work {
    pub(super) fn new(metrics: Metrics) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let threads = Handle::try_current().map_or(1, |it| it.metrics().num_workers());
        Self::with(metrics, (PLACES_PER_CORE * cores, MAX_WAITING), threads.saturating_sub(1))
    }

    fn with(metrics: Metrics, (places, waiting): (usize, usize), threads: usize) -> Self {
        let admitted = Semaphore::new(places.saturating_add(waiting));
        let (places, threads) = (Arc::new(Semaphore::new(places)), Semaphore::new(threads));
        Self { metrics, places, admitted, threads }
    }

    /// Does a piece of work that mostly takes a moment and changes nothing: here, if that is
    /// possible, or else as [`Work::run`] does. It may be begun twice, and must ask its deadline
    /// before every step.
    pub(super) async fn run_soon<T: Send + 'static>(
        &self,
        until: Option<Instant>,
        work: impl Fn(&Deadline) -> T + Send + 'static,
    ) -> Result<T, Status> {
        match self.run_here(until, &work) {
            Some(done) => done,
            None => self.run(until, work).await,
        }
    }

    /// Nothing if there is no thread for it, if others have waited for longer, or if it takes more
    /// than a moment.
    fn run_here<T>(
        &self,
        until: Option<Instant>,
        work: impl Fn(&Deadline) -> T,
    ) -> Option<Result<T, Status>> {
        if self.places.available_permits() == 0 {
            return None;
        }
        let _thread = self.threads.try_acquire().ok()?;
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return Some(Err(status::deadline_exceeded()));
        }
        let ends = now + A_MOMENT;
        let ends = until.map_or(ends, |until| until.min(ends));
        let (checks, cut_short) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
        let cut = Arc::clone(&cut_short);
        let deadline = Deadline::new(move || {
            let is_due = checks.fetch_add(1, Ordering::Relaxed) % CHECKS_PER_LOOK == 0;
            let has_passed = cut.load(Ordering::Relaxed) || is_due && Instant::now() >= ends;
            cut.store(has_passed, Ordering::Relaxed);
            has_passed
        });
        match catch_unwind(AssertUnwindSafe(|| work(&deadline))) {
            Ok(_) if cut_short.load(Ordering::Relaxed) => None,
            Ok(done) => Some(Ok(done)),
            Err(_panic) => Some(Err(failed(&self.metrics, "a panic"))),
        }
    }

    /// Does a piece of work when there is a place, unless nobody waits for it any more by then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        until: Option<Instant>,
        work: impl FnOnce(&Deadline) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let Ok(_admitted) = self.admitted.try_acquire() else { return Err(status::busy()) };
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match until {
            Some(until) => {
                timeout_at(until, place).await.map_err(|_| status::deadline_exceeded())?
            }
            None => place.await,
        };
        let place = place.map_err(|_| status::stopping())?;
        let caller = Arc::new(());
        let left = Arc::downgrade(&caller);
        let passed =
            move || left.strong_count() == 0 || until.is_some_and(|it| Instant::now() >= it);
        let deadline = Deadline::new(passed);
        let done = blocking(&self.metrics, move || {
            let _place = place;
            deadline.check().map(|()| work(&deadline))
        });
        let done = done.await;
        drop(caller);
        done?.map_err(|_| status::deadline_exceeded())
    }
}

/// When the caller stops waiting, if it says so; a little earlier.
pub(super) fn until(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let way_back = FOR_THE_WAY_BACK.min(timeout / 10);
    Instant::now().checked_add(timeout.saturating_sub(way_back))
}

/// `TimeoutValue TimeoutUnit` of gRPC over HTTP/2: at most eight digits and a letter.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use futures_util::{FutureExt as _, poll};
    use tonic::Code;

    use super::*;

    #[test]
    fn timeouts_as_grpc_writes_them() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("2M", Some(Duration::from_secs(120))),
            ("3H", Some(Duration::from_secs(10_800))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    /// Takes the only place until told to go on.
    fn occupied(work: &Arc<Work>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
        let (go_on, told) = mpsc::channel::<()>();
        let work = Arc::clone(work);
        let running = tokio::spawn(async move {
            work.run(None, move |_| told.recv().unwrap()).await.unwrap();
        });
        (go_on, running)
    }

    #[tokio::test]
    async fn what_waits_past_its_deadline_is_not_begun() {
        let work = Arc::new(Work::with(Metrics::new(), (1, 10), 0));
        let (go_on, running) = occupied(&work);
        while work.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let begun = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let soon = Instant::now() + Duration::from_millis(20);
        let late = work.run(Some(soon), move |_| seen.store(true, Ordering::SeqCst)).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        go_on.send(()).unwrap();
        running.await.unwrap();
        assert!(!begun.load(Ordering::SeqCst));
        // The place is free again.
        work.run(Some(Instant::now() + Duration::from_secs(60)), |_| ()).await.unwrap();
    }

    #[tokio::test]
    async fn who_finds_all_places_to_wait_taken_is_told_at_once() {
        let work = Arc::new(Work::with(Metrics::new(), (1, 1), 0));
        let (go_on, running) = occupied(&work);
        while work.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut waiting = Box::pin(work.run(None, |_| ()));
        assert!(poll!(&mut waiting).is_pending());
        let refused = work.run(None, |_| ()).now_or_never().expect("at once");
        assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
        go_on.send(()).unwrap();
        running.await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn work_ends_when_its_caller_leaves_and_keeps_its_place_until_then() {
        let work = Arc::new(Work::with(Metrics::new(), (1, 10), 0));
        let (has_begun, begun) = tokio::sync::oneshot::channel();
        let mut asking = Box::pin(work.run(None, move |deadline| {
            has_begun.send(()).unwrap();
            while deadline.check().is_ok() {
                std::thread::yield_now();
            }
        }));
        assert!(poll!(&mut asking).is_pending());
        begun.await.unwrap();
        assert_eq!(work.places.available_permits(), 0);
        drop(asking);
        // Waits for the place.
        work.run(Some(Instant::now() + Duration::from_secs(60)), |_| ()).await.unwrap();
    }

    #[tokio::test]
    async fn what_takes_a_moment_is_done_here_and_what_takes_longer_elsewhere() {
        let work = Work::with(Metrics::new(), (1, 10), 1);
        let this = std::thread::current().id();
        let here = work.run_soon(None, |it| (it.check(), std::thread::current().id()));
        assert_eq!(here.now_or_never().expect("at once").unwrap(), (Ok(()), this));
        // Longer than a moment where it was begun, and no longer at all where it may take its time.
        let slow = work.run_soon(None, move |deadline| {
            while std::thread::current().id() == this && deadline.check().is_ok() {}
            std::thread::current().id()
        });
        assert_ne!(slow.await.unwrap(), this);
        // The thread is free again.
        assert_eq!(work.threads.available_permits(), 1);
    }

    #[tokio::test]
    async fn nothing_is_done_here_that_would_overtake_or_take_the_last_thread() {
        let this = std::thread::current().id();
        let none_to_spare = Work::with(Metrics::new(), (1, 10), 0);
        let done = none_to_spare.run_soon(None, |_| std::thread::current().id()).await;
        assert_ne!(done.unwrap(), this);
        let work = Arc::new(Work::with(Metrics::new(), (1, 10), 1));
        let (go_on, running) = occupied(&work);
        while work.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut waiting = Box::pin(work.run_soon(None, |_| ()));
        assert!(poll!(&mut waiting).is_pending());
        go_on.send(()).unwrap();
        running.await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_here_is_one_failure_and_a_deadline_that_has_passed_is_kept() {
        let work = Work::with(Metrics::new(), (1, 10), 1);
        let failed: Result<(), Status> =
            work.run_soon(None, |_| panic!("this is part of the test")).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        assert_eq!(work.threads.available_permits(), 1);
        let late = work.run_soon(Some(Instant::now()), |_| ()).now_or_never().expect("at once");
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    }
}
