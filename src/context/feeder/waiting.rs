//! Requests that wait for the end of a tick.

use super::Feeder;

/// The most requests of one server that wait.
const MAX_OF_ORIGIN: usize = 4;
/// The most requests that wait.
const MAX_WAITING: usize = 256;

/// A moment: that at which a request was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of the first tick that begins after it.
    next_tick: u64,
}

/// The right of one request to wait, until it is dropped.
#[derive(Debug)]
pub struct WaitSlot<'f> {
    feeder: &'f Feeder,
    origin: String,
}

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        let mut state = self.feeder.state();
        if let Some(waiting) = state.waiting.get_mut(&self.origin) {
            *waiting -= 1;
            if *waiting == 0 {
                state.waiting.remove(&self.origin);
            }
        }
    }
}

impl WaitSlot<'_> {
    /// Waits until an answer to the request that was received then would be final. Tells the feeder
    /// that a tick is wanted. Never returns if there are no more ticks.
    pub async fn until_final(&self, received: Received) {
        let mut ended = self.feeder.ended.subscribe();
        self.feeder.want_tick(received);
        // It fails only if the sender is gone, and the feeder has it.
        drop(ended.wait_for(|number| *number >= received.next_tick).await);
    }
}

impl Feeder {
    /// The moment at which a request is received: now.
    pub fn received(&self) -> Received {
        Received { next_tick: self.state().ticks_begun + 1 }
    }

    /// Whether an answer that is looked up from now on is final for a request that was received
    /// then.
    pub fn is_final(&self, received: Received) -> bool {
        *self.ended.borrow() >= received.next_tick
    }

    /// The right to wait for a request of a server (empty for an internal caller); `None` if too
    /// many wait.
    pub fn wait_slot(&self, origin: &str) -> Option<WaitSlot<'_>> {
        let mut state = self.state();
        if state.waiting.values().sum::<usize>() >= MAX_WAITING {
            return None;
        }
        let of_origin = state.waiting.entry(origin.to_owned()).or_default();
        if *of_origin >= MAX_OF_ORIGIN {
            return None;
        }
        *of_origin += 1;
        Some(WaitSlot { feeder: self, origin: origin.to_owned() })
    }

    /// The number of requests that wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting.values().sum()
    }

    /// Waits until a tick is wanted that was not when `seen` was updated last; then updates it. The
    /// first call with a `seen` of zero may return for a tick that has begun since.
    pub async fn until_tick_wanted(&self, seen: &mut u64) {
        let mut wanted = self.wanted.subscribe();
        let found = wanted.wait_for(|count| *count > *seen).await.map(|it| *it);
        *seen = found.unwrap_or(*seen);
    }

    /// How often a tick was wanted: a start for [`until_tick_wanted`](Self::until_tick_wanted).
    pub fn ticks_wanted(&self) -> u64 {
        *self.wanted.borrow()
    }

    /// Tells the feeder that a tick is wanted, unless it has been told or the tick has begun.
    fn want_tick(&self, received: Received) {
        let mut state = self.state();
        if state.ticks_begun < received.next_tick && !state.is_tick_wanted {
            state.is_tick_wanted = true;
            drop(state);
            self.wanted.send_modify(|count| *count += 1);
        }
    }
}
