//! The first request of each server in a minute.
//!
//! When a homeserver cannot reach another server, it stops sending to it, for up to days. Synapse begins
//! again at once when that server's own request authenticates. A homeserver that gets no request of the
//! other server would not begin again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{clock::Clock, server_name::ServerName};

/// How long the requests after the first one are ordinary ones.
const INTERVAL: Duration = Duration::from_secs(60);
/// Most servers that are kept. Beyond it, no request counts as a first one.
const MAX_SERVERS: usize = 10_000;

/// When the last first request of each server was.
#[derive(Debug)]
pub(super) struct FirstOfOrigin {
    clock: Clock,
    /// By the steady clock.
    firsts: Mutex<HashMap<ServerName, Duration>>,
}

impl FirstOfOrigin {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, firsts: Mutex::default() }
    }

    /// Whether this is a first request, which is noted.
    pub(super) fn note(&self, origin: &ServerName) -> bool {
        let now = self.clock.steady();
        let is_recent = |at: &Duration| now.saturating_sub(*at) < INTERVAL;
        let mut firsts = self.firsts.lock().unwrap_or_else(PoisonError::into_inner);
        if firsts.get(origin).is_some_and(is_recent) {
            return false;
        }
        if firsts.len() >= MAX_SERVERS {
            firsts.retain(|_, at| is_recent(at));
            if firsts.len() >= MAX_SERVERS {
                return false;
            }
        }
        firsts.insert(origin.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn at(ms: u64) -> (FirstOfOrigin, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(ms));
        let clock = Arc::clone(&now);
        (FirstOfOrigin::new(Clock::new(move || clock.load(Ordering::Relaxed))), now)
    }

    #[test]
    fn one_request_of_each_server_in_a_minute() {
        let (first, now) = at(5);
        assert!(first.note(&name("a")) && first.note(&name("b")));
        assert!(!first.note(&name("a")));
        now.store(60_004, Ordering::Relaxed);
        assert!(!first.note(&name("a")));
        now.store(60_005, Ordering::Relaxed);
        assert!(first.note(&name("a")) && !first.note(&name("a")));
    }

    #[test]
    fn the_table_is_bounded() {
        let (first, now) = at(0);
        for nth in 0..MAX_SERVERS {
            assert!(first.note(&name(&format!("s{nth}"))));
        }
        assert!(!first.note(&name("one.more")));
        now.store(60_000, Ordering::Relaxed);
        assert!(first.note(&name("one.more")));
        assert_eq!(first.firsts.lock().unwrap().len(), 1);
    }
}
