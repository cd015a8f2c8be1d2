//! Callers that need the same result at the same time share one computation. Any of them drives it:
//! the first may leave, and the others get the result. When all have left, it is dropped.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

/// The computations under way, by key. Each may carry a note `N` for callers that join it.
pub(crate) struct SingleFlight<K, T: Clone, N = ()> {
    under_way: Arc<UnderWayByKey<K, T, N>>,
}

type UnderWayByKey<K, T, N> = Mutex<HashMap<K, Flight<T, N>>>;

struct Flight<T: Clone, N> {
    computation: WeakShared<BoxFuture<'static, T>>,
    note: N,
}

/// Takes part in a computation: a future of its result.
pub(crate) struct Participant<K: Eq + Hash, T: Clone, N> {
    // Dropped before the entry is looked at.
    computation: Shared<BoxFuture<'static, T>>,
    leaving: Leaving<K, T, N>,
}

/// The outcome of [`SingleFlight::join_or_start`].
pub(crate) enum Entered<P> {
    /// The computation was under way already.
    Joined(P),
    /// The computation has just been started.
    Started(P),
}

impl<K, T: Clone, N> Default for SingleFlight<K, T, N> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K, T: Clone, N> fmt::Debug for SingleFlight<K, T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleFlight")
    }
}

impl<K: Clone + Eq + Hash, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// Joins the computation under way for this key, or starts one, and waits for its result.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let start = || Some(((), start()));
        match self.join_or_start(key, |()| {}, start).expect("`start` always returns a future") {
            Entered::Joined(participant) | Entered::Started(participant) => participant.await,
        }
    }
}

impl<K: Clone + Eq + Hash, T: Clone + Send + Sync + 'static, N> SingleFlight<K, T, N> {
    /// Joins the computation under way for this key, after `join` was called with its note; or
    /// starts one with the note and the future of `start`. `None` if `start` returns `None`.
    pub(crate) fn join_or_start<F>(
        &self,
        key: K,
        join: impl FnOnce(&N),
        start: impl FnOnce() -> Option<(N, F)>,
    ) -> Option<Entered<Participant<K, T, N>>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let participant = |computation, key| {
            let leaving = Leaving { under_way: Arc::clone(&self.under_way), key };
            Participant { computation, leaving }
        };
        if let Some(flight) = under_way.get(&key)
            && let Some(computation) = flight.computation.upgrade()
            // The result of a finished computation may be outdated.
            && computation.peek().is_none()
        {
            join(&flight.note);
            return Some(Entered::Joined(participant(computation, key)));
        }
        let (note, future) = start()?;
        let computation = future.boxed().shared();
        if let Some(computation) = computation.downgrade() {
            under_way.insert(key.clone(), Flight { computation, note });
        }
        Some(Entered::Started(participant(computation, key)))
    }
}

// Nothing in it is pinned.
impl<K: Eq + Hash, T: Clone, N> Unpin for Participant<K, T, N> {}

impl<K: Eq + Hash, T: Clone, N> Future for Participant<K, T, N> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.computation.poll_unpin(cx)
    }
}

impl<K: Clone + Eq + Hash, T: Clone, N> Clone for Participant<K, T, N> {
    fn clone(&self) -> Self {
        let Leaving { under_way, key } = &self.leaving;
        let leaving = Leaving { under_way: Arc::clone(under_way), key: key.clone() };
        Self { computation: self.computation.clone(), leaving }
    }
}

/// Removes the entry of a computation after its last participant.
struct Leaving<K: Eq + Hash, T: Clone, N> {
    under_way: Arc<UnderWayByKey<K, T, N>>,
    key: K,
}

impl<K: Eq + Hash, T: Clone, N> Drop for Leaving<K, T, N> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&self.key).is_some_and(|it| it.computation.upgrade().is_none()) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::poll;
    use tokio::sync::oneshot;

    use super::*;

    /// A computation whose result the test sends, and which counts how often it was started.
    fn computation(
        started: &Arc<AtomicU32>,
    ) -> (oneshot::Sender<u32>, impl FnOnce() -> BoxFuture<'static, u32> + use<>) {
        let (send, received) = oneshot::channel();
        let started = Arc::clone(started);
        let start = move || {
            started.fetch_add(1, Ordering::SeqCst);
            async { received.await.unwrap() }.boxed()
        };
        (send, start)
    }

    #[tokio::test]
    async fn callers_share_one_computation() {
        let flights = SingleFlight::<_, _>::default();
        let started = Arc::default();
        let (send, start) = computation(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.run("a", computation(&started).1));
        assert!(poll!(&mut second).is_pending());
        let (send_other, start) = computation(&started);
        let mut other = Box::pin(flights.run("b", start));
        assert!(poll!(&mut other).is_pending());
        send.send(7).unwrap();
        send_other.send(8).unwrap();
        assert_eq!((first.await, second.await, other.await), (7, 7, 8));
        assert_eq!(started.load(Ordering::SeqCst), 2);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_first_caller_may_leave() {
        let flights = SingleFlight::<_, _>::default();
        let started = Arc::default();
        let (send, start) = computation(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.run("a", computation(&started).1));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        send.send(7).unwrap();
        assert_eq!(second.await, 7);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn without_callers_the_computation_is_dropped() {
        let flights = SingleFlight::<_, _>::default();
        let started = Arc::default();
        let (send, start) = computation(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        drop(first);
        assert!(send.is_closed());
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_finished_computation_is_not_joined() {
        let flights = SingleFlight::<_, _>::default();
        let started = Arc::default();
        let (send, start) = computation(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut lingering = Box::pin(flights.run("a", computation(&started).1));
        assert!(poll!(&mut lingering).is_pending());
        send.send(7).unwrap();
        assert_eq!(first.await, 7);
        let (send, start) = computation(&started);
        let mut second = Box::pin(flights.run("a", start));
        assert!(poll!(&mut second).is_pending());
        assert_eq!(lingering.await, 7);
        send.send(8).unwrap();
        assert_eq!(second.await, 8);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }
}
