//! The keys that other servers sign their requests with.
//!
//! ```text
//!  a request ──► pinned      set by the operator, never fetched
//!            ──► fetched ──► cache      in memory, while valid
//!                   │    └─► pauses, turns    when a fetch is allowed
//!                   └► fetch      one fetch at a time for each server
//!                        └► sources   1. the history service: what other gateways have fetched
//!                                     2. the server itself
//!                                     3. notaries, whose own signatures are checked
//! ```
//!
//! Keys are used while their server says that they are valid, and for a week after they were fetched
//! at most. Requests can name any server. But they cannot make the gateway ask a server more often
//! than once in five seconds, use unlimited memory or connections, or displace the fetches of others:
//! see `pauses` and `turns`.

mod cache;
mod fetch;
mod fetched;
mod options;
mod pauses;
mod pinned;
mod sources;
mod turns;

use std::{sync::Arc, time::Duration};

use backscroll_matrix::VerifyKey;

use self::fetched::FetchedKeys;
pub use self::{
    options::{FetchFlags, FetchOptions},
    pinned::{KeysError, PinnedKeys},
};
use crate::{
    client_address::ClientAddress, clock::Clock, history::StoredKeysClient, random::Random,
    server_name::ServerName,
};

/// Longest wait of a request for keys, and of a fetch for its turn. Other servers give up after a
/// minute.
const FETCH_TIMEOUT: Duration = Duration::from_secs(25);

/// Why a signature cannot be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKey {
    #[error("no keys of this server are known")]
    ServerUnknown,
    #[error("the keys of this server have expired")]
    Expired,
    #[error("the pinned keys of this server cannot be used")]
    Unusable,
    #[error("this server has no such key")]
    KeyUnknown,
    #[error("the keys of this server cannot be fetched")]
    NotFetched,
}

/// All keys of other servers, pinned and fetched.
#[derive(Debug)]
pub(crate) struct Keys {
    pinned: Arc<PinnedKeys>,
    fetched: Option<FetchedKeys>,
    clock: Clock,
}

impl Keys {
    pub(crate) fn new(
        pinned: PinnedKeys,
        fetching: Option<FetchOptions>,
        history: StoredKeysClient,
        clock: Clock,
        random: Random,
    ) -> Self {
        let pinned = Arc::new(pinned);
        let fetched = fetching.map(|fetching| {
            FetchedKeys::new(fetching, Arc::clone(&pinned), history, clock.clone(), random)
        });
        Self { pinned, fetched, clock }
    }

    /// The key to verify a request with. Fetches it if need be.
    pub(crate) async fn for_request(
        &self,
        server: &ServerName,
        key_id: &str,
        client: ClientAddress,
    ) -> Result<VerifyKey, NoKey> {
        if let Some(pinned) = self.pinned.of(server, self.clock.now_ms()) {
            return pinned?.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown);
        }
        match &self.fetched {
            Some(fetched) => fetched.for_request(server, key_id, client).await,
            None => Err(NoKey::ServerUnknown),
        }
    }
}
