//! When the keys of a server may be fetched again.
//!
//! No server is asked twice within a few seconds. Beyond that, a client whose fetches fail waits longer
//! and longer, and no other client with it. So a client that names a server while it is away, or a key
//! that it does not have, delays no other client.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::{
    back_off::back_off, client_address::ClientAddress, clock::Clock, random::Random,
    server_name::ServerName,
};

/// Most servers that are kept. Beyond it, some pauses end early.
const MAX_SERVERS: usize = 10_000;
/// Most failures that are kept. Beyond it, some pauses end early.
const MAX_FAILURES: usize = 20_000;
/// Shortest time between two fetches from the same server.
const MIN_PAUSE: Duration = Duration::from_secs(5);

/// The recent fetches of all servers, and the recent failures of all clients.
#[derive(Debug)]
pub(super) struct Pauses {
    /// When the last fetch from each server was started, by the steady clock.
    started: Cache<ServerName, Duration>,
    failures: Cache<(ServerName, ClientAddress), FailedFetches>,
    clock: Clock,
    random: Random,
}

/// The failures of one client with one server.
#[derive(Clone, Copy, Debug)]
struct FailedFetches {
    in_a_row: u32,
    /// When the client may try again, by the steady clock.
    until: Duration,
}

impl Pauses {
    pub(super) fn new(clock: Clock, random: Random) -> Self {
        Self { started: Cache::new(MAX_SERVERS), failures: Cache::new(MAX_FAILURES), clock, random }
    }

    /// Whether keys of a server may be fetched for this client now.
    pub(super) fn may_fetch(&self, server: &ServerName, client: ClientAddress) -> bool {
        let now = self.clock.steady();
        let started = self.started.get(server);
        let is_due = started.is_none_or(|then| now >= then.saturating_add(MIN_PAUSE));
        is_due && self.failures_of(server, client).is_none_or(|it| now >= it.until)
    }

    /// Notes that keys are being fetched from a server.
    pub(super) fn started(&self, server: &ServerName) {
        self.started.insert(server.clone(), self.clock.steady());
    }

    /// Notes that a fetch did not bring the key that this client's request needs.
    pub(super) fn failed(&self, server: &ServerName, client: ClientAddress) {
        let now = self.clock.steady();
        let failures = self.failures_of(server, client);
        // Several requests may have waited for the same fetch: it counts once.
        if failures.is_some_and(|it| now < it.until) {
            return;
        }
        let in_a_row = failures.map_or(0, |it| it.in_a_row).saturating_add(1);
        let until = now.saturating_add(back_off(in_a_row, &self.random));
        self.failures.insert((server.clone(), client), FailedFetches { in_a_row, until });
    }

    /// Notes that a fetch brought the key that this client's request needs.
    pub(super) fn succeeded(&self, server: &ServerName, client: ClientAddress) {
        self.failures.remove(&(server.clone(), client));
    }

    fn failures_of(&self, server: &ServerName, client: ClientAddress) -> Option<FailedFetches> {
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
    fn a_failure_delays_one_client_only_whatever_the_system_time() {
        let seconds = Arc::new(AtomicU64::new(0));
        let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
        let (steady, set) = (Arc::clone(&seconds), Arc::clone(&wall));
        let clock = Clock::new(move || set.load(Ordering::Relaxed))
            .with_steady(move || Duration::from_secs(steady.load(Ordering::Relaxed)));
        let pauses = Pauses::new(clock, Random::new(|| 0.0));
        let server: ServerName = "h.example".parse().unwrap();
        let failing = ClientAddress::from(IpAddr::from([192, 0, 2, 1]));
        let other = ClientAddress::from(IpAddr::from([192, 0, 2, 2]));
        assert!(pauses.may_fetch(&server, failing));
        for wait in [5, 10, 20, 40, 60, 60] {
            pauses.started(&server);
            assert!(!pauses.may_fetch(&server, other));
            pauses.failed(&server, failing);
            // Another request of the client that has waited for the same fetch.
            pauses.failed(&server, failing);
            seconds.fetch_add(5, Ordering::Relaxed);
            assert!(pauses.may_fetch(&server, other), "{wait}");
            for jump in [0, u64::MAX / 2, 1_700_000_000_000] {
                wall.store(jump, Ordering::Relaxed);
                assert_eq!(pauses.may_fetch(&server, failing), wait == 5, "{wait} {jump}");
            }
            seconds.fetch_add(wait - 5, Ordering::Relaxed);
            assert!(pauses.may_fetch(&server, failing), "{wait}");
        }
        pauses.succeeded(&server, failing);
        pauses.failed(&server, failing);
        seconds.fetch_add(5, Ordering::Relaxed);
        assert!(pauses.may_fetch(&server, failing));
    }
}
