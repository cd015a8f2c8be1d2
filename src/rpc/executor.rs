//! The one way off the async threads: everything below the handlers is synchronous.
//!
//! - [`Executor::run`] answers a request on a blocking thread. A fixed number of requests run at the
//!   same time, and a fixed number may wait; beyond that, callers get BUSY. A request whose caller
//!   has left, or whose deadline has passed, is not begun. A permit is returned when the work has
//!   ended, not when the caller leaves: callers that give up and retry wait for the permits instead
//!   of adding work.
//! - [`Executor::run_soon`] first tries for a moment on the async thread that calls it. Moving to a
//!   blocking thread and back costs as much as a usual answer, which is made from memory.
//! - [`Executor::stream`] runs a long job and sends its progress to the caller.
//! - [`Executor::serve`] runs the async part of a stream, and [`Executor::blocking`] its blocking
//!   steps.
//!
//! All of them keep the tracing span. A panic fails one request: it is counted, and the caller gets
//! INTERNAL.

use std::{
    fmt,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use tonic::Status;
use tracing::{Span, error};

use super::status;
use crate::{deadline::Deadline, metrics::Metrics, query::QueryError, store::until};

/// Requests that run at the same time, for each core: some of them wait for the disk.
const PERMITS_PER_CORE: usize = 4;
/// Requests that run at the same time if the store is behind a network, at least: they wait for it.
const REMOTE_PERMITS: usize = 32;
/// Requests that may wait for a permit.
const MAX_WAITING: usize = 1_024;
/// Upper bound on the work done on an async thread; a usual answer takes a fraction of it. The
/// current step may overrun, and a disconnect is noticed only afterwards.
const INLINE_LIMIT: Duration = Duration::from_millis(1);

/// Runs the work of requests. All handlers share one, so that its bounds hold for all requests
/// together. Clones share the bounds too.
#[derive(Clone)]
pub struct Executor {
    metrics: Metrics,
    permits: Arc<Semaphore>,
    /// One permit for each request that may wait.
    waiting: Arc<Semaphore>,
    /// One permit for each async thread that may work on a request: all but one. The last one is
    /// there for everything else while all others wait for the disk.
    inline: Arc<Semaphore>,
}

impl Executor {
    /// An executor with bounds that fit the machine and the current runtime. If the store is behind a
    /// network, no request is worked on on an async thread, which would wait with it, and more requests
    /// run at the same time.
    #[must_use]
    pub fn new(metrics: Metrics, is_store_remote: bool) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        if is_store_remote {
            let permits = (PERMITS_PER_CORE * cores).max(REMOTE_PERMITS);
            return Self::bounded(metrics, permits, MAX_WAITING, 0);
        }
        let threads = Handle::try_current().map_or(1, |it| it.metrics().num_workers());
        Self::bounded(metrics, PERMITS_PER_CORE * cores, MAX_WAITING, threads.saturating_sub(1))
    }

    fn bounded(metrics: Metrics, permits: usize, waiting: usize, inline: usize) -> Self {
        Self {
            metrics,
            permits: Arc::new(Semaphore::new(permits)),
            waiting: Arc::new(Semaphore::new(waiting)),
            inline: Arc::new(Semaphore::new(inline)),
        }
    }

    /// Runs a job that usually takes a moment and changes nothing: on this thread if possible,
    /// otherwise like [`run`](Self::run). The job may be run twice. It must check its deadline
    /// before every step.
    pub(super) async fn run_soon<T: Send + 'static>(
        &self,
        deadline: Deadline,
        job: impl Fn(&Deadline) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Status> {
        deadline.check().map_err(|_| status::deadline_exceeded())?;
        match self.run_inline(&deadline, &job) {
            Some(done) => done,
            None => self.run(deadline, job).await,
        }
    }

    /// Runs a job on this thread. `None` if no thread may be used for it, if others have waited for
    /// longer, or if it takes more than a moment.
    fn run_inline<T>(
        &self,
        deadline: &Deadline,
        job: impl Fn(&Deadline) -> Result<T, QueryError>,
    ) -> Option<Result<T, Status>> {
        if self.permits.available_permits() == 0 {
            return None;
        }
        let _thread = self.inline.try_acquire().ok()?;
        let inline = deadline.within(INLINE_LIMIT);
        let Ok(done) = catch_unwind(AssertUnwindSafe(|| job(&inline))) else {
            return Some(Err(self.failed("a panic")));
        };
        match done {
            Err(QueryError::Deadline(_)) => None,
            done => Some(done.map_err(status::of_query)),
        }
    }

    /// Runs a job on a blocking thread as soon as there is a permit. Fails with the error of the
    /// job; with BUSY if too many requests wait; with DEADLINE_EXCEEDED if the deadline passes.
    pub(super) async fn run<T: Send + 'static, E: Into<QueryError>>(
        &self,
        deadline: Deadline,
        job: impl FnOnce(&Deadline) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        deadline.check().map_err(|_| status::deadline_exceeded())?;
        let permit = self.permit(&deadline).await?;
        // If the caller leaves, this future is dropped, and with it the guard.
        let _cancel = deadline.cancel_on_drop();
        let done = self.blocking(move || {
            let _permit = permit;
            deadline.check()?;
            match deadline.for_waiting() {
                Some(at) => until(at, || job(&deadline)).map_err(Into::into),
                None => job(&deadline).map_err(Into::into),
            }
        });
        done.await?.map_err(status::of_query)
    }

    /// Waits for a permit.
    async fn permit(&self, deadline: &Deadline) -> Result<OwnedSemaphorePermit, Status> {
        let _admitted = self.waiting.try_acquire().map_err(|_| status::busy())?;
        let _counted = self.metrics.request_waiting();
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match deadline.at() {
            Some(at) => {
                timeout_at(at.into(), permit).await.map_err(|_| status::deadline_exceeded())?
            }
            None => permit.await,
        };
        Ok(permit.expect("the semaphore is never closed"))
    }

    /// Runs a step of a stream on a blocking thread. Steps have no permits: each stream has at most
    /// one at a time.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let span = Span::current();
        let done = tokio::task::spawn_blocking(move || span.in_scope(step)).await;
        done.map_err(|failure| self.failed(failure))
    }

    /// Counts and logs a panic, and returns what the caller gets.
    pub(super) fn failed(&self, failure: impl fmt::Display) -> Status {
        self.metrics.panicked();
        error!(%failure, "a request panicked");
        status::internal()
    }
}

/// The value of a metric, as `/metrics` shows it.
#[cfg(test)]
pub(super) fn shown(metrics: &Metrics, name: &str) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics.registry()).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
    line.expect("a metric of this name").to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
        time::Instant,
    };

    use futures_util::{FutureExt as _, poll};
    use tonic::Code;

    use super::*;

    /// A request that holds the only permit until it is ended.
    struct Occupied {
        end: mpsc::Sender<()>,
        running: tokio::task::JoinHandle<()>,
    }

    impl Occupied {
        async fn start(executor: &Executor) -> Self {
            let (end, ended) = mpsc::channel::<()>();
            let running = executor.clone();
            let running = tokio::spawn(async move {
                let job = move |_: &Deadline| {
                    ended.recv().unwrap();
                    done(())
                };
                running.run(Deadline::none(), job).await.unwrap();
            });
            while executor.permits.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            Self { end, running }
        }

        async fn end(self) {
            self.end.send(()).unwrap();
            self.running.await.unwrap();
        }
    }

    /// The result of a job.
    fn done<T>(value: T) -> Result<T, QueryError> {
        Ok(value)
    }

    /// A deadline that far from now.
    fn after(time: Duration) -> Deadline {
        Deadline::new(Some(Instant::now() + time), Instant::now)
    }

    #[tokio::test]
    async fn a_request_that_waits_past_its_deadline_is_not_begun() {
        let executor = Executor::bounded(Metrics::new(), 1, 10, 0);
        let occupied = Occupied::start(&executor).await;
        let begun = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let job = move |_: &Deadline| {
            seen.store(true, Ordering::SeqCst);
            done(())
        };
        let late = executor.run(after(Duration::from_millis(20)), job).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
        occupied.end().await;
        assert!(!begun.load(Ordering::SeqCst));
        // The permit was returned.
        executor.run(after(Duration::from_secs(60)), |_| done(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_beyond_those_that_may_wait_gets_busy_at_once() {
        let metrics = Metrics::new();
        let executor = Executor::bounded(metrics.clone(), 1, 1, 0);
        let occupied = Occupied::start(&executor).await;
        let mut waiting = Box::pin(executor.run(Deadline::none(), |_| done(())));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(shown(&metrics, "backscroll_requests_waiting"), "1");
        let refused = executor.run(Deadline::none(), |_| done(())).now_or_never();
        assert_eq!(refused.expect("at once").unwrap_err().code(), Code::ResourceExhausted);
        occupied.end().await;
        waiting.await.unwrap();
        assert_eq!(shown(&metrics, "backscroll_requests_waiting"), "0");
    }

    #[tokio::test]
    async fn work_ends_when_its_caller_leaves_and_keeps_its_permit_until_then() {
        let executor = Executor::bounded(Metrics::new(), 1, 10, 0);
        let (has_begun, begun) = tokio::sync::oneshot::channel();
        let mut asking = Box::pin(executor.run(Deadline::none(), move |deadline| {
            has_begun.send(()).unwrap();
            while deadline.check().is_ok() {
                thread::yield_now();
            }
            done(())
        }));
        assert!(poll!(&mut asking).is_pending());
        begun.await.unwrap();
        assert_eq!(executor.permits.available_permits(), 0);
        drop(asking);
        // Waits for the permit.
        executor.run(after(Duration::from_secs(60)), |_| done(())).await.unwrap();
    }

    #[tokio::test]
    async fn what_takes_a_moment_is_done_here_and_what_takes_longer_elsewhere() {
        let executor = Executor::bounded(Metrics::new(), 1, 10, 1);
        let this = thread::current().id();
        let here = executor.run_soon(Deadline::none(), |deadline| {
            deadline.check()?;
            done(thread::current().id())
        });
        assert_eq!(here.now_or_never().expect("at once").unwrap(), this);
        // It takes longer than a moment where it was begun, and ends at once elsewhere.
        let slow = executor.run_soon(Deadline::none(), move |deadline| {
            while thread::current().id() == this {
                deadline.check()?;
            }
            done(thread::current().id())
        });
        assert_ne!(slow.await.unwrap(), this);
        // The async thread is free again.
        assert_eq!(executor.inline.available_permits(), 1);
    }

    #[tokio::test]
    async fn no_request_waits_for_a_network_here() {
        let executor = Executor::new(Metrics::new(), true);
        let this = thread::current().id();
        let ran_on = executor.run_soon(Deadline::none(), |_| done(thread::current().id())).await;
        assert_ne!(ran_on.unwrap(), this);
    }

    #[tokio::test]
    async fn no_request_overtakes_others_here_or_takes_the_last_thread() {
        let this = thread::current().id();
        let no_thread = Executor::bounded(Metrics::new(), 1, 10, 0);
        let ran_on = no_thread.run_soon(Deadline::none(), |_| done(thread::current().id())).await;
        assert_ne!(ran_on.unwrap(), this);
        let executor = Executor::bounded(Metrics::new(), 1, 10, 1);
        let occupied = Occupied::start(&executor).await;
        let mut waiting = Box::pin(executor.run_soon(Deadline::none(), |_| done(())));
        assert!(poll!(&mut waiting).is_pending());
        occupied.end().await;
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_here_is_one_failure_and_a_deadline_that_has_passed_is_kept() {
        let metrics = Metrics::new();
        let executor = Executor::bounded(metrics.clone(), 1, 10, 1);
        let failed: Result<(), Status> =
            executor.run_soon(Deadline::none(), |_| panic!("this is part of the test")).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        assert_eq!(shown(&metrics, "backscroll_panics_total"), "1");
        assert_eq!(executor.inline.available_permits(), 1);
        let late = executor.run_soon(after(Duration::ZERO), |_| done(())).now_or_never();
        let late = late.expect("at once");
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    }
}
