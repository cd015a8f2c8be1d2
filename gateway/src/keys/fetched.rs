//! Keys in memory, and when to fetch others: one fetch at a time for each server, whoever waits
//! for it; none soon after one that failed. Both are needed, for whoever asks us names the server
//! that we ask.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ed25519_dalek::VerifyingKey;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use quick_cache::sync::Cache;
use tokio::{sync::Semaphore, time};

use super::{
    Fetching, NoKey, PinnedKeys,
    answer::ServerKeys,
    sources::{Obtained, Sources},
};
use crate::{
    back_off::back_off, clock::Clock, discovery::Discovery, history::RememberedKeys,
    server_name::ServerName,
};

/// How many servers' keys are held. Failures are counted apart, so that names made up by
/// strangers do not drive out keys.
const MAX_SERVERS: usize = 10_000;
const MAX_FAILURES: usize = 10_000;
/// How many fetches may wait for their turn, and how many may be under way.
const MAX_FLIGHTS: usize = 512;
const MAX_FETCHES: usize = 32;
/// How long a request waits for keys. Peers give up after a minute.
const PATIENCE: Duration = Duration::from_secs(25);
/// After a fetch, before an unknown key is worth another.
const MIN_AGE_MS: u64 = 60_000;

/// All of it.
pub(super) struct FetchedKeys {
    sources: Sources,
    pinned: Arc<PinnedKeys>,
    notaries: Vec<ServerName>,
    held: Cache<ServerName, Arc<Held>>,
    failures: Cache<ServerName, Failure>,
    flights: Mutex<HashMap<ServerName, Shared<BoxFuture<'static, ()>>>>,
    fetches: Semaphore,
    clock: Clock,
}

#[derive(Debug)]
struct Held {
    keys: ServerKeys,
    /// `None` when it is the history service that fetched them.
    fetched_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    in_a_row: u32,
    until_ms: u64,
}

impl FetchedKeys {
    pub(super) fn new(
        fetching: Fetching,
        pinned: Arc<PinnedKeys>,
        history: RememberedKeys,
        clock: Clock,
    ) -> Self {
        let discovery = Discovery::new(fetching.network, clock.clone());
        Self {
            sources: Sources { discovery, history, clock: clock.clone() },
            pinned,
            notaries: fetching.notaries,
            held: Cache::new(MAX_SERVERS),
            failures: Cache::new(MAX_FAILURES),
            flights: Mutex::default(),
            fetches: Semaphore::new(MAX_FETCHES),
            clock,
        }
    }

    /// The key to verify a request with, fetched if need be.
    pub(super) async fn for_request(
        self: &Arc<Self>,
        server: &ServerName,
        key_id: &str,
    ) -> Result<VerifyingKey, NoKey> {
        let waiting = async {
            // The first flight may have been somebody else's, after another key.
            for _ in 0..2 {
                if self.held_key(server, key_id).is_ok() || !self.may_fetch(server) {
                    break;
                }
                let Some(flight) = self.flight(server, key_id) else { break };
                flight.await;
            }
        };
        // What is under way goes on without us.
        if time::timeout(PATIENCE, waiting).await.is_err() {
            tracing::debug!(%server, "keys did not come in time");
        }
        self.held_key(server, key_id)
    }

    fn held_key(&self, server: &ServerName, key_id: &str) -> Result<VerifyingKey, NoKey> {
        let held = self.valid(server).ok_or(NoKey::NotFetched)?;
        held.keys.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown)
    }

    fn valid(&self, server: &ServerName) -> Option<Arc<Held>> {
        let now_ms = self.clock.now_ms();
        self.held.get(server).filter(|held| now_ms <= held.keys.valid_until_ts)
    }

    /// Whether it is long enough since the last time.
    fn may_fetch(&self, server: &ServerName) -> bool {
        let now_ms = self.clock.now_ms();
        let rests = self.failures.get(server).is_some_and(|failure| now_ms < failure.until_ms);
        let fetched_ms = self.valid(server).and_then(|held| held.fetched_ms);
        let is_fresh = fetched_ms.is_some_and(|then| now_ms < then.saturating_add(MIN_AGE_MS));
        !rests && !is_fresh
    }

    /// The fetch under way for a server, or a new one. None when there are too many.
    fn flight(
        self: &Arc<Self>,
        server: &ServerName,
        key_id: &str,
    ) -> Option<Shared<BoxFuture<'static, ()>>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(server) {
            return Some(flight.clone());
        }
        if flights.len() >= MAX_FLIGHTS {
            tracing::warn!(%server, "too many keys to fetch at once");
            return None;
        }
        let landing = Landing { keys: Arc::clone(self), server: server.clone() };
        let key_id = key_id.to_owned();
        // A task of its own: a caller who hangs up must not make us forget that we asked.
        let task = tokio::spawn(async move {
            let Landing { keys, server } = &landing;
            keys.fetch(server, &key_id).await;
        });
        let flight = task.map(|_panicked| ()).boxed().shared();
        flights.insert(server.clone(), flight.clone());
        Some(flight)
    }

    /// The history service first; then the server; then notaries.
    async fn fetch(self: &Arc<Self>, server: &ServerName, key_id: &str) {
        // Whoever landed between the caller's look and the start of this flight has done it.
        if self.held_key(server, key_id).is_ok() || !self.may_fetch(server) {
            return;
        }
        if self.valid(server).is_none()
            && let Some(keys) = self.sources.history_keys(server).await
        {
            let has_key = keys.verify_keys.contains_key(key_id);
            self.hold(server, keys, None);
            if has_key {
                return;
            }
        }
        let Ok(_turn) = self.fetches.acquire().await else { return };
        if !self.fetch_server_keys(server).await {
            self.fetch_from_notaries(server, key_id).await;
        }
    }

    /// Whether the server has answered with keys that are valid. A failure is remembered.
    async fn fetch_server_keys(self: &Arc<Self>, server: &ServerName) -> bool {
        match self.sources.server_keys(server).await {
            Ok(obtained) => {
                self.failures.remove(server);
                self.take(server, obtained);
                true
            }
            Err(error) => {
                let in_a_row = self.failures.get(server).map_or(0, |failure| failure.in_a_row);
                let in_a_row = in_a_row.saturating_add(1);
                let pause = back_off(in_a_row);
                tracing::info!(%server, %error, ?pause, "the server does not give its keys");
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                let until_ms = self.clock.now_ms().saturating_add(pause_ms);
                self.failures.insert(server.clone(), Failure { in_a_row, until_ms });
                false
            }
        }
    }

    async fn fetch_from_notaries(self: &Arc<Self>, server: &ServerName, key_id: &str) {
        for notary in self.notaries.iter().filter(|notary| *notary != server) {
            let Some(notary_keys) = self.notary_keys(notary).await else { continue };
            let asking = self.sources.notary_keys((notary, &notary_keys), server, key_id);
            match asking.await {
                Ok(obtained) => {
                    // What a notary remembers may be older than what the server itself has said.
                    let until_ms = obtained.keys.valid_until_ts;
                    if self.valid(server).is_none_or(|it| it.keys.valid_until_ts <= until_ms) {
                        self.take(server, obtained);
                    }
                    return;
                }
                Err(error) => tracing::info!(%server, %notary, %error, "no keys from a notary"),
            }
        }
    }

    /// The keys that a notary signs with: pinned, or its own word.
    async fn notary_keys(self: &Arc<Self>, notary: &ServerName) -> Option<ServerKeys> {
        if let Some(pinned) = self.pinned.of(notary, self.clock.now_ms()) {
            return pinned.ok().cloned();
        }
        if self.valid(notary).is_none() && self.may_fetch(notary) {
            self.fetch_server_keys(notary).await;
        }
        Some(self.valid(notary)?.keys.clone())
    }

    fn take(self: &Arc<Self>, server: &ServerName, obtained: Obtained) {
        let Obtained { keys, answer } = obtained;
        self.hold(server, keys, Some(self.clock.now_ms()));
        let this = Arc::clone(self);
        tokio::spawn(async move { this.sources.to_history(answer).await });
    }

    fn hold(&self, server: &ServerName, keys: ServerKeys, fetched_ms: Option<u64>) {
        self.held.insert(server.clone(), Arc::new(Held { keys, fetched_ms }));
    }
}

impl fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchedKeys")
    }
}

/// Ends a flight, however it ends.
struct Landing {
    keys: Arc<FetchedKeys>,
    server: ServerName,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.keys.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.server);
    }
}
