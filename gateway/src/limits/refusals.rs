//! Refusing takes turns: so many refusals a second, and those beyond wait a little for theirs.
//!
//! Whoever asks again as soon as it is refused would otherwise keep us busy with refusing: the
//! answers of those who were admitted would wait behind thousands of refusals, at every step they
//! take. A caller who means well is not going to ask again for minutes, and is not kept waiting
//! while there are few refusals.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

/// Most seconds that a refusal is held back: as long as those wait who do get an answer. Peers give
/// up after a minute.
const MOST_SECONDS: u32 = 10;

/// Whose turn it is to be refused.
#[derive(Debug)]
pub(super) struct Refusals {
    every: Duration,
    /// More than these are refused at once: holding them back takes memory.
    held: Semaphore,
    next: Mutex<Instant>,
}

impl Refusals {
    pub(super) fn new(a_second: u32) -> Self {
        let held = a_second.saturating_mul(MOST_SECONDS);
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        Self {
            every: Duration::from_secs(1) / a_second.max(1),
            held: Semaphore::new(held.min(Semaphore::MAX_PERMITS)),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the turn of one refusal. The turn of one who leaves is nobody's.
    pub(super) async fn turn(&self) {
        let Ok(_held) = self.held.try_acquire() else { return };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = Instant::now().max(*next);
            *next = turn + self.every;
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
    async fn few_do_not_wait_and_many_take_turns() {
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
    async fn too_many_are_not_held_back() {
        let refusals = Refusals::new(1);
        let start = Instant::now();
        let mut held = Box::pin(join_all((0..MOST_SECONDS).map(|_| refusals.turn())));
        assert!(poll!(&mut held).is_pending());
        // The first has had its turn, so that one more may wait.
        assert!(refusals.turn().now_or_never().is_none());
        let _full = refusals.held.try_acquire_many(1).unwrap();
        refusals.turn().now_or_never().unwrap();
        held.await;
        assert_eq!(start.elapsed().as_secs(), u64::from(MOST_SECONDS) - 1);
    }
}
