//! What a use case is given: the store, and what is counted. Plain data, shared by all requests;
//! and the keys that gateways have fetched, by which nothing is decided here.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use backscroll_matrix::KeyAnswer;

use crate::{
    backlog::Backlog,
    metrics::Metrics,
    slow_walks::SlowWalks,
    store::{FetchedKeys, Store, StoreError},
};

/// What a use case is given.
pub struct Context {
    /// Memory.
    pub store: Store,
    /// What is counted.
    pub metrics: Metrics,
    /// The slowest walks since the start.
    pub slow_walks: SlowWalks,
    /// Rooms in which more is left to work out than an append waits for.
    pub backlog: Backlog,
    /// Held while keys are compared with those held and put.
    putting_keys: Mutex<()>,
}

/// Whatever an answer says, it is not remembered for longer after it was fetched.
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// What is remembered of a server's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RememberedKeys {
    /// None were put.
    Unknown,
    /// Some were, and are not to be used any more.
    Expired,
    /// These.
    Valid(FetchedKeys),
}

impl Context {
    /// Around an open store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self::counted(store, Metrics::new())
    }

    /// Around an open store; counts go on where they are.
    #[must_use]
    pub fn counted(store: Store, metrics: Metrics) -> Self {
        Self {
            store,
            metrics,
            slow_walks: SlowWalks::default(),
            backlog: Backlog::default(),
            putting_keys: Mutex::default(),
        }
    }

    /// The keys of a server that are remembered at `now_ms`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn server_keys(
        &self,
        server_name: &str,
        now_ms: u64,
    ) -> Result<RememberedKeys, StoreError> {
        let Some(held) = self.store.server_keys(server_name)? else {
            return Ok(RememberedKeys::Unknown);
        };
        let valid_until_ts = KeyAnswer::parse(&held.answer).map_or(0, |keys| keys.valid_until_ts);
        let until = valid_until_ts.min(held.fetched_ts.saturating_add(max_validity_ms()));
        // What was fetched in time to come was not: a clock was wrong, nobody knows for how long.
        let is_valid = (held.fetched_ts..=until).contains(&now_ms);
        Ok(if is_valid { RememberedKeys::Valid(held) } else { RememberedKeys::Expired })
    }

    /// Keeps the keys of a server, unless those held were fetched later; on disk when this
    /// returns. They were checked by the caller. It is `now_ms`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn put_server_keys(
        &self,
        server_name: &str,
        fetched: &FetchedKeys,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let _putting = self.putting_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.store.server_keys(server_name)?;
        let is_newer =
            |held: FetchedKeys| (fetched.fetched_ts + 1..=now_ms).contains(&held.fetched_ts);
        if held.is_some_and(is_newer) {
            return Ok(());
        }
        self.store.put_server_keys(server_name, fetched)
    }
}

fn max_validity_ms() -> u64 {
    u64::try_from(MAX_VALIDITY.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
