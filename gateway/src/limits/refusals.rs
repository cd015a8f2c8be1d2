//! Refusals with status 429 take turns: a limited number is sent per second, and others wait.
//!
//! A client that repeats a refused request at once would otherwise keep the gateway busy with
//! refusals, and delay the answers to admitted requests. A well-behaved client does not repeat its
//! request for minutes, and does not wait while there are few refusals.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

/// Longest wait of a refusal: as long as admitted requests may wait. Servers give up after a minute.
const MAX_WAIT_SECONDS: u32 = 10;

/// Spaces refusals evenly in time.
#[derive(Debug)]
pub(super) struct Refusals {
    interval: Duration,
    /// One permit for each refusal that may wait. Beyond that refusals are sent at once, because
    /// waiting requests take memory.
    waiting: Semaphore,
    next: Mutex<Instant>,
}

impl Refusals {
    pub(super) fn new(per_second: u32) -> Self {
        let waiting = per_second.saturating_mul(MAX_WAIT_SECONDS);
        let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            waiting: Semaphore::new(waiting.min(Semaphore::MAX_PERMITS)),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until one more refusal may be sent. If the client disconnects meanwhile, its turn is
    /// not used.
    pub(super) async fn turn(&self) {
        let Ok(_waiting) = self.waiting.try_acquire() else { return };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = Instant::now().max(*next);
            *next = turn + self.interval;
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all, poll};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_refusals_do_not_wait_and_many_take_turns() {
        let refusals = Refusals::new(10);
        let start = Instant::now();
        for _ in 0..5 {
            refusals.turn().await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(start.elapsed().as_millis(), 500);
        join_all((0..11).map(|_| refusals.turn())).await;
        let took = start.elapsed().as_millis();
        assert!((1_500..1_600).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_refusals_are_sent_at_once() {
        let refusals = Refusals::new(1);
        let start = Instant::now();
        let mut held = Box::pin(join_all((0..MAX_WAIT_SECONDS).map(|_| refusals.turn())));
        assert!(poll!(&mut held).is_pending());
        // The first has had its turn, so one more may wait.
        assert!(refusals.turn().now_or_never().is_none());
        let _full = refusals.waiting.try_acquire_many(1).unwrap();
        refusals.turn().now_or_never().unwrap();
        held.await;
        assert_eq!(start.elapsed().as_secs(), u64::from(MAX_WAIT_SECONDS) - 1);
    }
}
