//! Threads that serve connections, each with a runtime of its own: what a request needs, from its
//! socket to the history service's and back, happens on one thread. On a runtime of several
//! threads its parts wake each other across cores, which costs as much as a signature's check.
//!
//! The streams of an HTTP/2 connection are shared out among all threads, since one connection may
//! bring everybody's requests. Without threads everything happens on the runtime of the caller.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use hyper::rt::Executor;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::limits::run_stream;

/// Of the scheduler's scale from -20 to 19: about a tenth of what other threads get, where they
/// want all there is.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

thread_local! {
    /// Which of the threads this is; zero for any other.
    static NTH: Cell<usize> = const { Cell::new(0) };
}

/// The number of the thread that this runs on: zero for one that is none of ours.
pub(crate) fn nth() -> usize {
    NTH.get()
}

/// The threads. They end when this is dropped, and with them whatever is left on them.
#[derive(Debug)]
pub(crate) struct Workers {
    spread: Spread,
    _end: DropGuard,
}

impl Workers {
    /// Starts so many.
    ///
    /// # Errors
    /// When the system has no threads or sockets left.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let start = |nth| {
            let set_nth = move || NTH.set(nth);
            start_thread(format!("connections-{nth}"), end.clone(), set_nth)
        };
        let handles: io::Result<Vec<Handle>> = (1..=count).map(start).collect();
        let spread = Spread { handles: handles?.into(), turn: Arc::default() };
        Ok(Self { spread, _end: end.drop_guard() })
    }

    /// The runtime whose turn it is.
    pub(crate) fn next(&self) -> Handle {
        self.spread.next()
    }

    /// Runs every stream of HTTP/2 on the thread whose turn it is.
    pub(crate) fn spread(&self) -> Spread {
        self.spread.clone()
    }
}

/// A thread for what must not delay what the others do. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Aside {
    runtime: Handle,
    _end: DropGuard,
}

impl Aside {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no threads or sockets left.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let end = CancellationToken::new();
        let runtime = start_thread(name.to_owned(), end.clone(), lower_priority)?;
        Ok(Self { runtime, _end: end.drop_guard() })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// Of this thread, as far as the system knows of that: on others than Linux all threads of a process
/// have one priority.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "cannot lower the priority of a thread");
    }
}

/// Starts a thread with a runtime of its own, which runs until it is told to end.
fn start_thread(
    name: String,
    end: CancellationToken,
    begin: impl FnOnce() + Send + 'static,
) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(name).spawn(move || {
        begin();
        runtime.block_on(end.cancelled());
        // A lookup of a name may still be under way.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

/// Runs every stream of HTTP/2 on the thread whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    handles: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl Spread {
    fn next(&self) -> Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let nth = turn.checked_rem(self.handles.len()).and_then(|it| self.handles.get(it));
        nth.cloned().unwrap_or_else(Handle::current)
    }
}

impl<F> Executor<F> for Spread
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        drop(self.next().spawn(run_stream(work)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_takes_turns_on_the_threads() {
        let workers = Workers::start(2).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(workers.next().spawn(async { nth() }).await.unwrap());
        }
        assert_eq!(seen, [1, 2, 1, 2]);
        assert_eq!(nth(), 0);
        let (tell, told) = tokio::sync::oneshot::channel();
        workers.spread().execute(async { tell.send(nth()).unwrap() });
        assert_eq!(told.await.unwrap(), 1);
        // What is left on them ends with them.
        let left = workers.next().spawn(std::future::pending::<()>());
        drop(workers);
        assert!(left.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn without_threads_everything_stays_here() {
        let workers = Workers::start(0).unwrap();
        let here = thread::current().id();
        let there = workers.next().spawn(async { thread::current().id() }).await.unwrap();
        assert_eq!(there, here);
    }
}
