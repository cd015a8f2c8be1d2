//! The signing keys of servers: how long stored keys may be used, and which replace which. They are
//! read from the store each time: a gateway asks for the keys of a server about once a week, so
//! there is no cache here.

use std::time::Duration;

use backscroll_matrix::KeyAnswer;

use super::Context;
use crate::store::{FetchedKeys, StoreError};

/// Keys are not used for longer after their fetch, even if they are valid for longer.
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// The stored keys of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RememberedKeys {
    /// No keys of the server are stored.
    Unknown,
    /// Some are stored, but may not be used any more.
    Expired,
    /// These are stored and may be used.
    Valid(FetchedKeys),
}

impl Context {
    /// The stored keys of a server, as of `now_ms`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When their record is damaged.
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
        // A fetch in the future means that a clock was wrong, and the true time is unknown.
        let is_valid = (held.fetched_ts..=until).contains(&now_ms);
        Ok(if is_valid { RememberedKeys::Valid(held) } else { RememberedKeys::Expired })
    }

    /// Stores the keys of a server, unless the stored ones were fetched later. On disk when this
    /// returns. The caller has verified them. `now_ms` is the time, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the record of the stored keys is damaged.
    pub fn put_server_keys(
        &self,
        server_name: &str,
        fetched: &FetchedKeys,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let is_newer =
            |held: &FetchedKeys| (fetched.fetched_ts + 1..=now_ms).contains(&held.fetched_ts);
        self.store.put_server_keys(server_name, fetched, |held| !held.is_some_and(is_newer))
    }
}

fn max_validity_ms() -> u64 {
    u64::try_from(MAX_VALIDITY.as_millis()).expect("a week has fewer than 2^64 milliseconds")
}

#[cfg(test)]
mod tests;
