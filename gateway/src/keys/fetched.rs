//! Keys that are fetched when a request needs them. For each server there is one fetch at a time; it
//! goes on when the requests that wait for it have left. Pauses and turns limit fetches, because any
//! client can name any server.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use backscroll_matrix::VerifyKey;
use futures_util::FutureExt as _;
use tokio::time;

use super::{
    FETCH_TIMEOUT, FetchOptions, NoKey, PinnedKeys,
    cache::KeyCache,
    fetch::{Fetcher, WantedKey},
    pauses::Pauses,
    sources::Sources,
    turns::{Turn, TurnBounds, Turns},
};
use crate::{
    client_address::ClientAddress,
    clock::Clock,
    discovery::Discovery,
    history::StoredKeysClient,
    random::Random,
    server_name::ServerName,
    single_flight::{Entered, Participant, SingleFlight},
};

/// A fetch holds a connection and an answer. With the longest time of one, these are some sixteen
/// fetches per second, and thirteen of one client.
const BOUNDS: TurnBounds = TurnBounds {
    turns: 128,
    for_known: 32,
    turns_of_client: 80,
    waiting: 2_048,
    waiting_of_client: 128,
    idle_clients: 4_096,
};

/// Keys that are fetched from other servers.
pub(super) struct FetchedKeys {
    fetcher: Arc<Fetcher>,
    fetches: SingleFlight<ServerName, (), Arc<Turn>>,
    turns: Arc<Turns>,
}

impl FetchedKeys {
    pub(super) fn new(
        options: FetchOptions,
        pinned: Arc<PinnedKeys>,
        history: StoredKeysClient,
        clock: Clock,
        random: Random,
    ) -> Self {
        let discovery = Discovery::new(options.network, clock.clone(), random.clone());
        let fetcher = Fetcher {
            cache: KeyCache::new(clock.clone()),
            pauses: Pauses::new(clock.clone(), random),
            sources: Sources { discovery, history, clock: clock.clone() },
            pinned,
            notaries: options.notaries,
            clock,
        };
        Self {
            fetcher: Arc::new(fetcher),
            fetches: SingleFlight::default(),
            turns: Turns::new(BOUNDS),
        }
    }

    /// The key to verify a request with. Fetches it if need be, and waits for [`FETCH_TIMEOUT`] at
    /// most.
    pub(super) async fn for_request(
        &self,
        server: &ServerName,
        key_id: &str,
        client: ClientAddress,
    ) -> Result<VerifyKey, NoKey> {
        let waiting = async {
            // The first fetch may have been started for another key.
            for _ in 0..2 {
                if self.fetcher.cache.key(server, key_id).is_ok() {
                    break;
                }
                let Some(fetch) = self.fetch(server, key_id, client) else { break };
                fetch.await;
            }
        };
        if time::timeout(FETCH_TIMEOUT, waiting).await.is_err() {
            tracing::debug!(%server, "no keys in time");
        }
        self.fetcher.cache.key(server, key_id)
    }

    /// Joins the fetch under way for a server, or starts one. `None` if there was a fetch a moment
    /// ago, or if too many wait.
    fn fetch(
        &self,
        server: &ServerName,
        key_id: &str,
        client: ClientAddress,
    ) -> Option<Participant<ServerName, (), Arc<Turn>>> {
        let start = || {
            if !self.fetcher.pauses.may_fetch(server, client) {
                return None;
            }
            let Some(turn) = self.turns.enqueue(client) else {
                tracing::debug!(%server, "too many fetches of keys wait");
                return None;
            };
            let turn = Arc::new(turn);
            let wanted = WantedKey { server: server.clone(), key_id: key_id.to_owned(), client };
            let fetch = Arc::clone(&self.fetcher).fetch(wanted, Arc::clone(&turn));
            Some((turn, AssertUnwindSafe(fetch).catch_unwind().map(|_panicked| ())))
        };
        let entered =
            self.fetches.join_or_start(server.clone(), |turn| turn.share(client), start)?;
        Some(match entered {
            Entered::Joined(participant) => participant,
            Entered::Started(participant) => {
                // A task takes part as well: when the client disconnects, the fetch goes on.
                tokio::spawn(participant.clone());
                participant
            }
        })
    }
}

impl fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchedKeys")
    }
}
