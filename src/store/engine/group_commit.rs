//! Group commit: callers that ask for a flush while one is under way share the next one.

use std::sync::{Condvar, Mutex};

use super::StoreError;
use crate::sync::{lock, wait};

/// The flushes of a store.
#[derive(Default)]
pub(in crate::store) struct GroupCommit {
    state: Mutex<FlushState>,
    done: Condvar,
}

#[derive(Default)]
struct FlushState {
    is_running: bool,
    /// The number of the flush that began last.
    begun: u64,
    /// The number of the last flush that succeeded.
    succeeded: u64,
}

impl GroupCommit {
    /// Returns when everything written before the call has been flushed, by `flush` or by that of
    /// another caller.
    pub(in crate::store) fn wait(
        &self,
        flush: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        // Only a flush that begins after this call covers everything written before it.
        let needed = state.begun + 1;
        while state.is_running && state.succeeded < needed {
            state = wait(&self.done, state);
        }
        if state.succeeded >= needed {
            return Ok(());
        }
        state.is_running = true;
        state.begun += 1;
        let own = state.begun;
        drop(state);
        let outcome = flush();
        let mut state = lock(&self.state);
        state.is_running = false;
        if outcome.is_ok() {
            state.succeeded = own;
        }
        self.done.notify_all();
        outcome
    }
}
