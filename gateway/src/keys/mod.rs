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
//! What is promised: a key is believed while its server says it is valid, and never further than
//! a week ahead; nothing that a stranger sends makes us ask anybody more often than once a minute,
//! or hold more than a bounded number of anything.

mod answer;
mod fetched;
mod options;
mod pinned;
mod sources;

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;

pub(crate) use self::answer::signature;
use self::fetched::FetchedKeys;
pub use self::{
    answer::AnswerFault,
    options::{FetchFlags, Fetching},
    pinned::{KeysError, PinnedKeys},
};
use crate::{clock::Clock, history::RememberedKeys, server_name::ServerName};

/// Why there is no key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKey {
    #[error("no keys of this server are known")]
    ServerUnknown,
    #[error("the keys of this server have expired")]
    Expired,
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
        history: RememberedKeys,
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
    ) -> Result<VerifyingKey, NoKey> {
        if let Some(pinned) = self.pinned.of(server, self.clock.now_ms()) {
            return pinned?.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown);
        }
        match &self.fetched {
            Some(fetched) => fetched.for_request(server, key_id).await,
            None => Err(NoKey::ServerUnknown),
        }
    }
}
