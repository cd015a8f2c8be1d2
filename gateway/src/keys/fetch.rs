//! One fetch of a server's keys: from the history service, from the server, from notaries.

use std::{sync::Arc, time::Duration};

use backscroll_matrix::KeyAnswer;
use tokio::time;

use super::{
    FETCH_TIMEOUT, PinnedKeys,
    cache::KeyCache,
    pauses::Pauses,
    sources::{FetchedAnswer, HistoryKeys, Sources},
    turns::Turn,
};
use crate::{client_address::ClientAddress, clock::Clock, server_name::ServerName};

/// The key that a fetch was started for.
pub(super) struct WantedKey {
    pub(super) server: ServerName,
    pub(super) key_id: String,
    /// The client that has sent the request.
    pub(super) client: ClientAddress,
}

/// Fetches keys into the cache.
pub(super) struct Fetcher {
    pub(super) cache: KeyCache,
    pub(super) pauses: Pauses,
    pub(super) sources: Sources,
    pub(super) pinned: Arc<PinnedKeys>,
    pub(super) notaries: Vec<ServerName>,
    pub(super) clock: Clock,
}

impl Fetcher {
    /// Asks the history service at once; if that does not help, the server and then notaries, when
    /// it is the fetch's turn.
    pub(super) async fn fetch(self: Arc<Self>, wanted: WantedKey, turn: Arc<Turn>) {
        let WantedKey { server, key_id, client } = wanted;
        // A fetch that has ended meanwhile may have done the work.
        if self.cache.key(&server, &key_id).is_ok() || !self.pauses.may_fetch(&server, client) {
            return;
        }
        if self.cache.valid(&server).is_some() {
            turn.set_known();
        } else {
            match self.sources.history_keys(&server).await {
                HistoryKeys::Unknown => {}
                HistoryKeys::Expired => turn.set_known(),
                HistoryKeys::Valid { keys, age } => {
                    turn.set_known();
                    let has_key = keys.verify_keys.contains_key(&key_id);
                    self.cache.insert(&server, keys, age);
                    if has_key {
                        return;
                    }
                }
            }
        }
        if time::timeout(FETCH_TIMEOUT, turn.granted()).await != Ok(true) {
            tracing::debug!(%server, "no turn to fetch keys in time");
            return;
        }
        if !self.fetch_from_server(&server).await {
            self.fetch_from_notaries(&server, &key_id).await;
        }
        if self.cache.key(&server, &key_id).is_ok() {
            self.pauses.succeeded(&server, client);
        } else {
            self.pauses.failed(&server, client);
        }
    }

    /// Whether the server has answered with valid keys.
    async fn fetch_from_server(self: &Arc<Self>, server: &ServerName) -> bool {
        self.pauses.started(server);
        match self.sources.server_keys(server).await {
            Ok(answer) => {
                self.store(server, answer);
                true
            }
            Err(error) => {
                tracing::info!(%server, %error, "cannot fetch keys from the server");
                false
            }
        }
    }

    async fn fetch_from_notaries(self: &Arc<Self>, server: &ServerName, key_id: &str) {
        for notary in self.notaries.iter().filter(|notary| *notary != server) {
            let Some(notary_keys) = self.notary_keys(notary).await else { continue };
            match self.sources.notary_keys(notary, &notary_keys, server, key_id).await {
                Ok(answer) => {
                    // A notary may have older keys than those that the server itself has sent.
                    let until_ms = answer.keys.valid_until_ts;
                    let cached = self.cache.valid(server);
                    if cached.is_none_or(|it| it.keys.valid_until_ts <= until_ms) {
                        self.store(server, answer);
                    }
                    return;
                }
                Err(error) => {
                    tracing::info!(%server, %notary, %error, "cannot fetch keys from a notary");
                }
            }
        }
    }

    /// The keys that a notary signs with: pinned ones, or those that it sends itself.
    async fn notary_keys(self: &Arc<Self>, notary: &ServerName) -> Option<KeyAnswer> {
        if let Some(pinned) = self.pinned.of(notary, self.clock.now_ms()) {
            return pinned.ok().cloned();
        }
        let may_fetch = self.pauses.may_fetch(notary, ClientAddress::UNKNOWN);
        if self.cache.valid(notary).is_none() && may_fetch {
            self.fetch_from_server(notary).await;
        }
        Some(self.cache.valid(notary)?.keys.clone())
    }

    /// Stores keys in the cache, and in the history service.
    fn store(self: &Arc<Self>, server: &ServerName, answer: FetchedAnswer) {
        let FetchedAnswer { keys, text } = answer;
        self.cache.insert(server, keys, Duration::ZERO);
        let this = Arc::clone(self);
        tokio::spawn(async move { this.sources.put_into_history(text).await });
    }
}
