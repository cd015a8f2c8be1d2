//! Memory for answers: reserved before a response is received from the history service, and free
//! when the answer has been written to its client.
//!
//! A response that does not fit waits. Meanwhile answers that make no progress are evicted,
//! those of the owner with the most bytes first.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backscroll_grpc_client::ReserveMemory;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

use super::{AnswerOwner, Shares};

const KIB: usize = 1024;
/// How often a waiting response looks for an answer to evict.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest time between two evictions, however many responses wait.
const EVICTION_INTERVAL: Duration = Duration::from_millis(10);
/// Time without progress after which an answer may be evicted.
const STALLED_AFTER: Duration = Duration::from_millis(300);
/// Longest wait for memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The memory for answers, counted in KiB.
#[derive(Debug)]
pub(crate) struct AnswerMemory {
    free: Arc<Semaphore>,
    total_kib: u32,
    answers: Shares<AnswerOwner>,
    last_eviction: Mutex<Instant>,
}

impl AnswerMemory {
    /// `answers` are the answers that are being sent: those of them that stall are evicted when memory
    /// is needed.
    pub(super) fn new(bytes: usize, answers: Shares<AnswerOwner>) -> Self {
        let total_kib = u32::try_from((bytes / KIB).max(1)).unwrap_or(u32::MAX);
        let permits = usize::try_from(total_kib).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            total_kib,
            answers,
            last_eviction: Mutex::new(Instant::now()),
        }
    }

    fn evict_stalled(&self) {
        let mut last_eviction = self.last_eviction.lock().unwrap_or_else(PoisonError::into_inner);
        if last_eviction.elapsed() >= EVICTION_INTERVAL {
            *last_eviction = Instant::now();
            drop(last_eviction);
            self.answers.evict_stalled(STALLED_AFTER);
        }
    }
}

impl ReserveMemory for AnswerMemory {
    type Reserved = OwnedSemaphorePermit;

    /// A response that is larger than all memory is taken alone.
    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX).min(self.total_kib);
        let until = Instant::now() + TIMEOUT;
        let mut taking = pin!(Arc::clone(&self.free).acquire_many_owned(kib));
        loop {
            match time::timeout(LOOK_INTERVAL, &mut taking).await {
                Ok(taken) => return taken.ok(),
                Err(_elapsed) if Instant::now() >= until => return None,
                Err(_elapsed) => self.evict_stalled(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::{FutureExt as _, poll};
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{
            EvictionHandle,
            shares::{Amount, ShareBounds},
        },
        *,
    };
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn stalled_answers_are_evicted_for_a_response_that_waits() {
        let most = Amount { count: 9, bytes: usize::MAX };
        let answers = Shares::new("answers", Metrics::new(), ShareBounds { all: most, each: most });
        let memory = AnswerMemory::new(10 * KIB, answers.clone());
        let owner = |text: &str| Some(AnswerOwner::Address(text.parse::<IpAddr>().unwrap().into()));
        let mut held = Vec::new();
        for (address, kib) in [("10.0.0.1", 2), ("10.0.0.2", 4), ("10.0.0.2", 4)] {
            let cut = CancellationToken::new();
            let permit = memory.reserve(kib * KIB).now_or_never().unwrap().unwrap();
            let share =
                answers.add(owner(address), kib * KIB, EvictionHandle::new(cut.clone())).unwrap();
            held.push((cut, permit, share));
        }
        let start = Instant::now();
        let mut waiting = Box::pin(memory.reserve(1));
        assert!(poll!(&mut waiting).is_pending());
        tokio::select! {
            _taken = &mut waiting => panic!("there is no room"),
            () = held[1].0.cancelled() => {}
        }
        // Not before it had been there for some time.
        assert!((300..500).contains(&start.elapsed().as_millis()));
        assert!(!held[0].0.is_cancelled() && !held[2].0.is_cancelled());
        drop(held.remove(1));
        drop(waiting.await.unwrap());
        // One that is too large waits for all.
        held.clear();
        drop(memory.reserve(99 * KIB).now_or_never().unwrap().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_memory_is_limited() {
        let most = Amount { count: 9, bytes: usize::MAX };
        let answers = Shares::new("answers", Metrics::new(), ShareBounds { all: most, each: most });
        let memory = AnswerMemory::new(KIB, answers);
        let _all = memory.reserve(KIB).await.unwrap();
        let start = Instant::now();
        assert!(memory.reserve(1).await.is_none());
        assert!(start.elapsed() >= TIMEOUT);
    }
}
