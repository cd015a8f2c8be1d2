//! Keys in memory, and when to fetch others: one fetch at a time for each server, whoever waits
//! for it; none soon after another; no more at once than there are turns. All are needed, for
//! whoever asks us names the server that we ask.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backscroll_matrix::{KeyAnswer, VerifyKey};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use quick_cache::sync::Cache;
use tokio::time;

use super::{
    Asker, Fetching, NoKey, PinnedKeys,
    pauses::Pauses,
    sources::{MAX_VALIDITY, Obtained, Remembered, Sources},
    turns::{Bounds, Turn, Turns},
};
use crate::{
    clock::Clock, discovery::Discovery, history::StoredKeysClient, server_name::ServerName,
};

/// How many servers' keys are held. Pauses are counted apart, so that names made up by strangers
/// do not drive out keys.
const MAX_SERVERS: usize = 10_000;
/// Fetches under way hold a connection each, and an answer. With the time that one may take, these
/// are some sixteen a second, of one asker thirteen.
const BOUNDS: Bounds = Bounds {
    turns: 128,
    for_known: 32,
    turns_of_asker: 80,
    waiting: 2_048,
    waiting_of_asker: 128,
    idle_askers: 4_096,
};
/// How long a request waits for keys. Peers give up after a minute.
const PATIENCE: Duration = Duration::from_secs(25);

/// All of it.
pub(super) struct FetchedKeys {
    sources: Sources,
    pinned: Arc<PinnedKeys>,
    notaries: Vec<ServerName>,
    held: Cache<ServerName, Arc<Held>>,
    pauses: Pauses,
    flights: Mutex<HashMap<ServerName, Flight>>,
    turns: Arc<Turns>,
    clock: Clock,
}

#[derive(Debug)]
struct Held {
    keys: KeyAnswer,
    /// By the steady clock: however the wall clock is set, nobody is believed for longer.
    until: Duration,
}

/// A fetch under way.
#[derive(Clone)]
struct Flight {
    turn: Arc<Turn>,
    landed: Shared<BoxFuture<'static, ()>>,
}

impl FetchedKeys {
    pub(super) fn new(
        fetching: Fetching,
        pinned: Arc<PinnedKeys>,
        history: StoredKeysClient,
        clock: Clock,
    ) -> Self {
        let discovery = Discovery::new(fetching.network, clock.clone());
        Self {
            sources: Sources { discovery, history, clock: clock.clone() },
            pinned,
            notaries: fetching.notaries,
            held: Cache::new(MAX_SERVERS),
            pauses: Pauses::new(clock.clone()),
            flights: Mutex::default(),
            turns: Turns::new(BOUNDS),
            clock,
        }
    }

    /// The key to verify a request with, fetched if need be.
    pub(super) async fn for_request(
        self: &Arc<Self>,
        server: &ServerName,
        key_id: &str,
        asker: Asker,
    ) -> Result<VerifyKey, NoKey> {
        let waiting = async {
            // The first flight may have been somebody else's, after another key.
            for _ in 0..2 {
                if self.held_key(server, key_id).is_ok() {
                    break;
                }
                let Some(flight) = self.flight(server, key_id, asker) else { break };
                flight.landed.await;
            }
        };
        // What is under way goes on without us.
        if time::timeout(PATIENCE, waiting).await.is_err() {
            tracing::debug!(%server, "keys did not come in time");
        }
        self.held_key(server, key_id)
    }

    fn held_key(&self, server: &ServerName, key_id: &str) -> Result<VerifyKey, NoKey> {
        let held = self.valid(server).ok_or(NoKey::NotFetched)?;
        held.keys.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown)
    }

    fn valid(&self, server: &ServerName) -> Option<Arc<Held>> {
        let (now_ms, now) = (self.clock.now_ms(), self.clock.steady());
        self.held.get(server).filter(|held| now_ms <= held.keys.valid_until_ts && now <= held.until)
    }

    /// The fetch under way for a server, or a new one. None when there was one a moment ago, or
    /// too many wait.
    fn flight(self: &Arc<Self>, server: &ServerName, key_id: &str, asker: Asker) -> Option<Flight> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(server) {
            flight.turn.share(asker);
            return Some(flight.clone());
        }
        if !self.pauses.may_ask(server, asker) {
            return None;
        }
        let Some(turn) = self.turns.line_up(asker) else {
            tracing::debug!(%server, "too many wait for keys to be fetched");
            return None;
        };
        let turn = Arc::new(turn);
        let landing =
            Landing { keys: Arc::clone(self), server: server.clone(), turn: Arc::clone(&turn) };
        let wanted = Wanted { key_id: key_id.to_owned(), asker };
        // A task of its own: a caller who hangs up must not make us forget that we asked.
        let task = tokio::spawn(async move {
            let Landing { keys, server, turn } = &landing;
            keys.fetch(server, &wanted, turn).await;
        });
        let flight = Flight { turn, landed: task.map(|_panicked| ()).boxed().shared() };
        flights.insert(server.clone(), flight.clone());
        Some(flight)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<ServerName, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history service first; then the server; then notaries.
    async fn fetch(self: &Arc<Self>, server: &ServerName, wanted: &Wanted, turn: &Turn) {
        let Wanted { key_id, asker } = wanted;
        // Whoever landed between the caller's look and the start of this flight has done it.
        if self.held_key(server, key_id).is_ok() || !self.pauses.may_ask(server, *asker) {
            return;
        }
        if self.valid(server).is_some() {
            turn.is_known();
        } else {
            match self.sources.history_keys(server).await {
                Remembered::Unknown => {}
                Remembered::Ended => turn.is_known(),
                Remembered::Valid { keys, age } => {
                    turn.is_known();
                    let has_key = keys.verify_keys.contains_key(key_id);
                    self.hold(server, keys, age);
                    if has_key {
                        return;
                    }
                }
            }
        }
        if time::timeout(PATIENCE, turn.has_come()).await != Ok(true) {
            tracing::debug!(%server, "its turn to be asked for keys did not come");
            return;
        }
        if !self.fetch_server_keys(server).await {
            self.fetch_from_notaries(server, key_id).await;
        }
        if self.held_key(server, key_id).is_ok() {
            self.pauses.found(server, *asker);
        } else {
            self.pauses.in_vain(server, *asker);
        }
    }

    /// Whether the server has answered with keys that are valid.
    async fn fetch_server_keys(self: &Arc<Self>, server: &ServerName) -> bool {
        self.pauses.asked(server);
        match self.sources.server_keys(server).await {
            Ok(obtained) => {
                self.take(server, obtained);
                true
            }
            Err(error) => {
                tracing::info!(%server, %error, "the server does not give its keys");
                false
            }
        }
    }

    async fn fetch_from_notaries(self: &Arc<Self>, server: &ServerName, key_id: &str) {
        for notary in self.notaries.iter().filter(|notary| *notary != server) {
            let Some(notary_keys) = self.notary_keys(notary).await else { continue };
            match self.sources.notary_keys(notary, &notary_keys, server, key_id).await {
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
    async fn notary_keys(self: &Arc<Self>, notary: &ServerName) -> Option<KeyAnswer> {
        if let Some(pinned) = self.pinned.of(notary, self.clock.now_ms()) {
            return pinned.ok().cloned();
        }
        if self.valid(notary).is_none() && self.pauses.may_ask(notary, Asker::UNKNOWN) {
            self.fetch_server_keys(notary).await;
        }
        Some(self.valid(notary)?.keys.clone())
    }

    fn take(self: &Arc<Self>, server: &ServerName, obtained: Obtained) {
        let Obtained { keys, answer } = obtained;
        self.hold(server, keys, Duration::ZERO);
        let this = Arc::clone(self);
        tokio::spawn(async move { this.sources.to_history(answer).await });
    }

    /// Holds keys that were fetched so long ago.
    fn hold(&self, server: &ServerName, keys: KeyAnswer, age: Duration) {
        let left = MAX_VALIDITY.saturating_sub(age);
        let until = self.clock.steady().saturating_add(left);
        for left_out in &keys.left_out {
            tracing::debug!(%server, %left_out, "a key is not used");
        }
        self.held.insert(server.clone(), Arc::new(Held { keys, until }));
    }
}

impl fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchedKeys")
    }
}

/// What a fetch was begun for.
struct Wanted {
    key_id: String,
    asker: Asker,
}

/// Ends a flight, however it ends.
struct Landing {
    keys: Arc<FetchedKeys>,
    server: ServerName,
    turn: Arc<Turn>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.keys.flights().remove(&self.server);
    }
}
