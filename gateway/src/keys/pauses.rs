//! When a server may be asked for its keys again.
//!
//! Nobody is asked twice within a few seconds, whoever wants it. Beyond that, whoever asked in
//! vain waits longer and longer, and nobody else with him: a stranger who names a server while it
//! is away, or a key that it does not have, keeps nobody but himself from its keys.

use std::time::Duration;

use quick_cache::sync::Cache;


use crate::{back_off::back_off, client_address::ClientAddress, clock::Clock, server_name::ServerName};

/// How many are remembered; with more, pauses of some end early.
const MAX_SERVERS: usize = 10_000;
const MAX_FAILURES: usize = 20_000;
/// Between two questions to the same server.
const LEAST_PAUSE: Duration = Duration::from_secs(5);

/// All of them.
#[derive(Debug)]
pub(super) struct Pauses {
    asked: Cache<ServerName, Duration>,
    failures: Cache<(ServerName, ClientAddress), Failure>,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    in_a_row: u32,
    /// By the steady clock.
    until: Duration,
}

impl Pauses {
    pub(super) fn new(clock: Clock) -> Self {
        let (asked, failures) = (Cache::new(MAX_SERVERS), Cache::new(MAX_FAILURES));
        Self { asked, failures, clock }
    }

    /// Whether a server may be asked for this client.
    pub(super) fn may_ask(&self, server: &ServerName, client: ClientAddress) -> bool {
        let now = self.clock.steady();
        let asked = self.asked.get(server);
        let is_rested = asked.is_none_or(|then| now >= then.saturating_add(LEAST_PAUSE));
        is_rested && self.failure(server, client).is_none_or(|failure| now >= failure.until)
    }

    /// A server is being asked.
    pub(super) fn asked(&self, server: &ServerName) {
        self.asked.insert(server.clone(), self.clock.steady());
    }

    /// It was asked, and this client did not get the key.
    pub(super) fn in_vain(&self, server: &ServerName, client: ClientAddress) {
        let now = self.clock.steady();
        let failure = self.failure(server, client);
        // Many may have waited for the same answer.
        if failure.is_some_and(|failure| now < failure.until) {
            return;
        }
        let in_a_row = failure.map_or(0, |failure| failure.in_a_row).saturating_add(1);
        let until = now.saturating_add(back_off(in_a_row));
        self.failures.insert((server.clone(), client), Failure { in_a_row, until });
    }

    /// This client got the key.
    pub(super) fn found(&self, server: &ServerName, client: ClientAddress) {
        self.failures.remove(&(server.clone(), client));
    }

    fn failure(&self, server: &ServerName, client: ClientAddress) -> Option<Failure> {
        self.failures.get(&(server.clone(), client))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::*;

    #[test]
    fn who_asks_in_vain_waits_alone_and_no_clock_that_is_set_changes_it() {
        let seconds = Arc::new(AtomicU64::new(0));
        let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
        let (steady, set) = (Arc::clone(&seconds), Arc::clone(&wall));
        let clock = Clock::new(move || set.load(Ordering::Relaxed))
            .with_steady(move || Duration::from_secs(steady.load(Ordering::Relaxed)));
        let pauses = Pauses::new(clock);
        let server: ServerName = "h.example".parse().unwrap();
        let stranger = ClientAddress::from(IpAddr::from([192, 0, 2, 1]));
        let honest = ClientAddress::from(IpAddr::from([192, 0, 2, 2]));
        assert!(pauses.may_ask(&server, stranger));
        for wait in [5, 10, 20, 40, 60, 60] {
            pauses.asked(&server);
            assert!(!pauses.may_ask(&server, honest));
            pauses.in_vain(&server, stranger);
            // Another who waited for the same.
            pauses.in_vain(&server, stranger);
            seconds.fetch_add(5, Ordering::Relaxed);
            assert!(pauses.may_ask(&server, honest), "{wait}");
            for jump in [0, u64::MAX / 2, 1_700_000_000_000] {
                wall.store(jump, Ordering::Relaxed);
                assert_eq!(pauses.may_ask(&server, stranger), wait == 5, "{wait} {jump}");
            }
            seconds.fetch_add(wait - 5, Ordering::Relaxed);
            assert!(pauses.may_ask(&server, stranger), "{wait}");
        }
        pauses.found(&server, stranger);
        pauses.in_vain(&server, stranger);
        seconds.fetch_add(5, Ordering::Relaxed);
        assert!(pauses.may_ask(&server, stranger));
    }
}
