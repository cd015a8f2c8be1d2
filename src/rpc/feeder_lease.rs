//! The lease of the feeder in a store that several processes share. The process with the `Feed` stream
//! holds it in the store, so no other process grants a lease meanwhile. Calls with the id of the lease
//! are accepted by that process only: it alone knows whether the stream still exists. In other processes
//! there is no feeder: they refuse such calls with LEASE_LOST, and requests with bounds with FEEDER_BEHIND.
//!
//! A process that cannot prolong the lease in the store accepts no more writes before another process
//! may take the lease. A batch that was begun by then is finished, as after any lost lease; it has what is
//! left of the time of the lease for that.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time;
use tonic::Status;
use tracing::warn;

use super::{executor::Executor, status};
use crate::{
    context::{Context, feeder::LEASE_TIME},
    proto::v1::ErrorReason,
    store::{HeldLease, Leased, StoreError, until},
};

/// The time between two looks whether the lease is to be prolonged.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long before the end of the lease the last write begins.
const TO_FINISH: Duration = Duration::from_secs(2);

/// The lease of the feeder in the store. It is given up when this is dropped and no call writes with it
/// any more.
pub(super) struct SharedLease {
    cx: Arc<Context>,
    executor: Executor,
    /// `None` in a store of one process.
    held: Option<Arc<Mutex<HeldLease>>>,
}

impl SharedLease {
    /// Takes the lease for a feeder to which this process has granted its own lease.
    ///
    /// # Errors
    /// FEEDER_ACTIVE if another process has it; another error if the store fails.
    pub(super) async fn take(
        cx: &Arc<Context>,
        executor: &Executor,
        lease_id: &str,
    ) -> Result<Self, Status> {
        let mut taken = Self { cx: Arc::clone(cx), executor: executor.clone(), held: None };
        if !cx.store.is_shared() {
            return Ok(taken);
        }
        let asked = Arc::clone(cx);
        let bound = Instant::now() + LEASE_TIME;
        let take = move || asked.store.try_lease_for(Leased::Feeder, LEASE_TIME);
        let held = executor.blocking(move || until(bound, take)).await?;
        let held = held.map_err(|it| status::of_store(&it))?.ok_or_else(|| {
            let text = "another process of this service has a feeder; its lease ends 10 seconds after \
                        its last report";
            status::refuse(ErrorReason::FeederActive, text)
        })?;
        cx.feeder.hold_until(lease_id, last_write(&held));
        taken.held = Some(Arc::new(Mutex::new(held)));
        Ok(taken)
    }

    /// Prolongs the lease again and again. Returns when it is lost.
    pub(super) async fn keep(&self, lease_id: &str) -> Status {
        let Some(held) = &self.held else { return std::future::pending().await };
        loop {
            time::sleep(LOOK_EVERY).await;
            match prolong(&self.cx, &self.executor, held).await {
                Ok(Ok(true)) => self.cx.feeder.hold_until(lease_id, last_write(&lock(held))),
                Ok(Ok(false)) => return status::lease_lost(),
                Ok(Err(failure)) if failure.is_away() => {
                    warn!(%failure, "the lease of the feeder could not be prolonged");
                }
                Ok(Err(failure)) => return status::of_store(&failure),
                Err(status) => return status,
            }
            if Instant::now() >= last_write(&lock(held)) {
                return status::lease_lost();
            }
        }
    }
}

fn lock(held: &Mutex<HeldLease>) -> MutexGuard<'_, HeldLease> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the last write with a lease may begin.
fn last_write(held: &HeldLease) -> Instant {
    held.ends_at() - TO_FINISH
}

async fn prolong(
    cx: &Arc<Context>,
    executor: &Executor,
    held: &Arc<Mutex<HeldLease>>,
) -> Result<Result<bool, StoreError>, Status> {
    let (cx, held) = (Arc::clone(cx), Arc::clone(held));
    let bound = Instant::now() + LOOK_EVERY;
    executor.blocking(move || until(bound, || cx.store.prolong(&mut lock(&held)))).await
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let (cx, executor) = (Arc::clone(&self.cx), self.executor.clone());
        tokio::spawn(async move {
            // Another process may grant a lease only when no call writes with this one.
            while time::timeout(LOOK_EVERY, cx.feeder.until_idle()).await.is_err() {
                drop(prolong(&cx, &executor, &held).await);
            }
            let released = executor.blocking(move || cx.store.release(&lock(&held)));
            drop(released.await);
        });
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{context::feeder::Grant, metrics::Metrics, store::Store};

    /// Bounds every wait of these tests.
    const BOUND: Duration = Duration::from_secs(30);

    async fn take(cx: &Arc<Context>, lease_id: &str) -> Result<SharedLease, Status> {
        assert_eq!(cx.feeder.grant("synapse", lease_id, Instant::now()), Grant::Granted);
        let taken = SharedLease::take(cx, &Executor::new(Metrics::new(), true), lease_id).await;
        if taken.is_err() {
            cx.feeder.release(lease_id);
        }
        taken
    }

    #[tokio::test]
    async fn of_several_processes_one_has_a_feeder_until_no_call_writes_with_its_lease() {
        let all = Store::sharing(2).into_iter().map(|it| Arc::new(Context::new(it)));
        let [one, other]: [Arc<Context>; 2] = all.collect::<Vec<_>>().try_into().ok().unwrap();
        let lease = take(&one, "a").await.unwrap();
        let refused = take(&other, "b").await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(other.feeder.begin_write("a", Instant::now()).is_err());
        let writing = one.feeder.begin_write("a", Instant::now()).unwrap();
        one.feeder.release("a");
        drop(lease);
        tokio::task::yield_now().await;
        assert!(take(&other, "b").await.is_err());
        drop(writing);
        let taking = async {
            while take(&other, "b").await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        time::timeout(BOUND, taking).await.unwrap();
        assert!(take(&one, "c").await.is_err());
    }

    #[tokio::test]
    async fn a_store_of_one_process_has_no_shared_lease() {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::store::Options::plain(dir.path().to_owned(), 1 << 20);
        let cx = Arc::new(Context::new(Store::open(&options).unwrap()));
        let lease = take(&cx, "a").await.unwrap();
        assert!(lease.held.is_none());
        assert!(cx.feeder.begin_write("a", Instant::now() + LEASE_TIME / 2).is_ok());
    }
}
