//! Group commit: callers that come while a flush is under way share the next one.

use std::sync::{Condvar, Mutex, PoisonError};

use super::StoreError;

/// The flushes of a store.
#[derive(Default)]
pub(super) struct Flushes {
    state: Mutex<FlushState>,
    done: Condvar,
}

#[derive(Default)]
struct FlushState {
    running: bool,
    /// Flushes begun and ended well so far.
    begun: u64,
    ended: u64,
}

impl Flushes {
    /// Returns when everything written before the call has been flushed.
    pub(super) fn wait(
        &self,
        flush: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Only a flush that begins after this call covers what was written before it.
        let needed = state.begun + 1;
        loop {
            if state.ended >= needed {
                return Ok(());
            }
            if !state.running {
                break;
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        state.begun += 1;
        let this = state.begun;
        drop(state);
        let outcome = flush();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = false;
        if outcome.is_ok() {
            state.ended = this;
        }
        self.done.notify_all();
        outcome
    }
}
