//! Memory for answers: from before they come from the history service until they have been taken.
//! Who finds none waits. Meanwhile answers give way of which nothing is taken, those of whoever has most
//! of them first.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

use super::{Full, Owner, Shares};

const KIB: usize = 1024;
/// How often somebody who waits looks for an answer that could give way, and how often one is found
/// whoever looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CUT_EVERY: Duration = Duration::from_millis(10);
/// How long nothing of an answer was taken before it may have to.
const STILL: Duration = Duration::from_millis(300);
/// How long to wait for memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// The memory.
#[derive(Debug)]
pub(crate) struct Room {
    /// In KiB.
    free: Arc<Semaphore>,
    all: u32,
    answers: Shares<Owner>,
    looked: Mutex<Instant>,
}

impl Room {
    /// For so many bytes of answers, which count as these shares once they are on their way.
    pub(super) fn new(bytes: usize, answers: Shares<Owner>) -> Self {
        let all = u32::try_from((bytes / KIB).max(1)).unwrap_or(u32::MAX);
        let permits = usize::try_from(all).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let looked = Mutex::new(Instant::now());
        Self { free: Arc::new(Semaphore::new(permits)), all, answers, looked }
    }

    /// Memory for an answer of so many bytes, to be held as long as it is there. One that is larger
    /// than all of it is taken alone.
    pub(crate) async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Full> {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX).min(self.all);
        let until = Instant::now() + PATIENCE;
        let mut taking = pin!(Arc::clone(&self.free).acquire_many_owned(kib));
        loop {
            match time::timeout(LOOK_EVERY, &mut taking).await {
                Ok(taken) => return taken.map_err(|_closed| Full),
                Err(_elapsed) if Instant::now() >= until => return Err(Full),
                Err(_elapsed) => self.look(),
            }
        }
    }

    fn look(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() >= CUT_EVERY {
            *looked = Instant::now();
            drop(looked);
            self.answers.cut_what_does_not_move(STILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::{FutureExt as _, poll};
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{Amount, Bounds, Cut},
        *,
    };
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_others_do_not_take() {
        let most = Amount { count: 9, bytes: usize::MAX };
        let answers = Shares::new("answers", Metrics::new(), Bounds { all: most, each: most });
        let room = Room::new(10 * KIB, answers.clone());
        let owner = |text: &str| Some(Owner::Address(text.parse::<IpAddr>().unwrap()));
        let mut held = Vec::new();
        for (address, kib) in [("10.0.0.1", 2), ("10.0.0.2", 4), ("10.0.0.2", 4)] {
            let cut = CancellationToken::new();
            let permit = room.take(kib * KIB).now_or_never().unwrap().unwrap();
            let share = answers.add(owner(address), kib * KIB, Cut::of(cut.clone())).unwrap();
            held.push((cut, permit, share));
        }
        let start = Instant::now();
        let mut waiting = Box::pin(room.take(1));
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
        drop(room.take(99 * KIB).now_or_never().unwrap().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let most = Amount { count: 9, bytes: usize::MAX };
        let answers = Shares::new("answers", Metrics::new(), Bounds { all: most, each: most });
        let room = Room::new(KIB, answers);
        let _all = room.take(KIB).await.unwrap();
        let start = Instant::now();
        assert_eq!(room.take(1).await.unwrap_err(), Full);
        assert!(start.elapsed() >= PATIENCE);
    }
}
