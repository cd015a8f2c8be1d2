//! The wall clock. It is read where requests, commands and background work begin, and passed on.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is where the time enters")]
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
