//! The keys that other servers sign their requests with.
//!
//! ```text
//!  a request ──► pinned      an operator said so: never fetched
//!            ──► fetched     in memory, while valid; one fetch at a time for each server:
//!                   │            the history service, which remembers what others fetched
//!                   └► sources   the server itself
//!                                notaries, whose own signature is checked
//! ```
//!
//! What is promised: a key is believed while its server says it is valid, and for a week after it
//! was fetched at most; nothing that strangers send makes us ask anybody more often than once in
//! five seconds, or hold more than a bounded number of anything, or keeps others from the keys
//! that they need: see `turns` and `pauses`.

mod asker;
mod fetched;
mod options;
mod pauses;
mod pinned;
mod sources;
mod turns;

use std::sync::Arc;

use backscroll_matrix::VerifyKey;

pub(crate) use self::asker::Asker;
use self::fetched::FetchedKeys;
pub use self::{
    options::{FetchFlags, Fetching},
    pinned::{KeysError, PinnedKeys},
};
use crate::{clock::Clock, history::StoredKeysClient, server_name::ServerName};

/// Why there is no key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKey {
    #[error("no keys of this server are known")]
    ServerUnknown,
    #[error("the keys of this server have expired")]
    Expired,
    #[error("the keys of this server that are pinned cannot be used")]
    Unusable,
    #[error("this server has no such key")]
    KeyUnknown,
    #[error("the keys of this server cannot be fetched")]
    NotFetched,
}

/// All keys that can be had.
#[derive(Debug)]
pub(crate) struct Keys {
    pinned: Arc<PinnedKeys>,
    fetched: Option<Arc<FetchedKeys>>,
    clock: Clock,
}

impl Keys {
    pub(crate) fn new(
        pinned: PinnedKeys,
        fetching: Option<Fetching>,
        history: StoredKeysClient,
        clock: Clock,
    ) -> Self {
        let pinned = Arc::new(pinned);
        let fetched = fetching.map(|fetching| {
            FetchedKeys::new(fetching, Arc::clone(&pinned), history, clock.clone())
        });
        Self { pinned, fetched: fetched.map(Arc::new), clock }
    }

    /// The key to verify a request with that is sent now.
    pub(crate) async fn for_request(
        &self,
        server: &ServerName,
        key_id: &str,
        asker: Asker,
    ) -> Result<VerifyKey, NoKey> {
        if let Some(pinned) = self.pinned.of(server, self.clock.now_ms()) {
            return pinned?.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown);
        }
        match &self.fetched {
            Some(fetched) => fetched.for_request(server, key_id, asker).await,
            None => Err(NoKey::ServerUnknown),
        }
    }
}
