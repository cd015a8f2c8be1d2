//! Callers that ask the same at the same time share one computation. Whoever of them is still
//! there drives it: the first may leave, the others get their answer; when all have left, it is
//! dropped.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

/// The computations under way, by what they compute.
pub(crate) struct SingleFlight<K, T: Clone> {
    under_way: Arc<UnderWay<K, T>>,
}

type UnderWay<K, T> = Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>;

impl<K, T: Clone> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K, T: Clone> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleFlight")
    }
}

impl<K: Clone + Eq + Hash, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// Joins the computation under way for this key, or starts one.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (_leaving, computation) = self.join(key, start);
        computation.await
    }

    /// The computation is dropped before the note that one participant has left it.
    fn join<F>(
        &self,
        key: K,
        start: impl FnOnce() -> F,
    ) -> (Leaving<K, T>, Shared<BoxFuture<'static, T>>)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = under_way.get(&key).and_then(WeakShared::upgrade);
        // One that has ended is of the past: its answer may be too.
        let computation = joined.filter(|it| it.peek().is_none()).unwrap_or_else(|| {
            let computation = start().boxed().shared();
            if let Some(weak) = computation.downgrade() {
                under_way.insert(key.clone(), weak);
            }
            computation
        });
        drop(under_way);
        (Leaving { under_way: Arc::clone(&self.under_way), key }, computation)
    }
}

/// Clears up after the last participant.
struct Leaving<K: Eq + Hash, T: Clone> {
    under_way: Arc<UnderWay<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T: Clone> Drop for Leaving<K, T> {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&self.key).is_some_and(|it| it.upgrade().is_none()) {
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

    /// A computation that waits to be told its result, and counts how often it was started.
    fn told(
        started: &Arc<AtomicU32>,
    ) -> (oneshot::Sender<u32>, impl FnOnce() -> BoxFuture<'static, u32> + use<>) {
        let (tell, told) = oneshot::channel();
        let started = Arc::clone(started);
        let start = move || {
            started.fetch_add(1, Ordering::SeqCst);
            async { told.await.unwrap() }.boxed()
        };
        (tell, start)
    }

    #[tokio::test]
    async fn the_same_question_is_computed_once() {
        let flights = SingleFlight::default();
        let started = Arc::default();
        let (tell, start) = told(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.run("a", told(&started).1));
        assert!(poll!(&mut second).is_pending());
        let (tell_other, start) = told(&started);
        let mut other = Box::pin(flights.run("b", start));
        assert!(poll!(&mut other).is_pending());
        tell.send(7).unwrap();
        tell_other.send(8).unwrap();
        assert_eq!((first.await, second.await, other.await), (7, 7, 8));
        assert_eq!(started.load(Ordering::SeqCst), 2);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_first_may_leave() {
        let flights = SingleFlight::default();
        let started = Arc::default();
        let (tell, start) = told(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.run("a", told(&started).1));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        tell.send(7).unwrap();
        assert_eq!(second.await, 7);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn when_all_have_left_it_is_dropped() {
        let flights = SingleFlight::default();
        let started = Arc::default();
        let (tell, start) = told(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        drop(first);
        assert!(tell.is_closed());
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_has_ended_is_computed_again() {
        let flights = SingleFlight::default();
        let started = Arc::default();
        let (tell, start) = told(&started);
        let mut first = Box::pin(flights.run("a", start));
        assert!(poll!(&mut first).is_pending());
        let mut lingering = Box::pin(flights.run("a", told(&started).1));
        assert!(poll!(&mut lingering).is_pending());
        tell.send(7).unwrap();
        assert_eq!(first.await, 7);
        let (tell, start) = told(&started);
        let mut second = Box::pin(flights.run("a", start));
        assert!(poll!(&mut second).is_pending());
        assert_eq!(lingering.await, 7);
        tell.send(8).unwrap();
        assert_eq!(second.await, 8);
        assert!(flights.under_way.lock().unwrap().is_empty());
    }
}
