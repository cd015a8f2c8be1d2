//! The keys of other servers in memory.

use std::{sync::Arc, time::Duration};

use backscroll_matrix::{KeyAnswer, VerifyKey};
use quick_cache::sync::Cache;

use super::{NoKey, sources::MAX_VALIDITY};
use crate::{clock::Clock, server_name::ServerName};

/// Most servers whose keys are kept. Pauses are counted elsewhere, so that names that clients make up
/// do not displace keys.
const MAX_SERVERS: usize = 10_000;

/// Fetched keys, by server.
pub(super) struct KeyCache {
    servers: Cache<ServerName, Arc<CachedKeys>>,
    clock: Clock,
}

/// The keys of one server.
#[derive(Debug)]
pub(super) struct CachedKeys {
    pub(super) keys: KeyAnswer,
    /// The last moment of use by the steady clock, which no change of the system time can move.
    until: Duration,
}

impl KeyCache {
    pub(super) fn new(clock: Clock) -> Self {
        Self { servers: Cache::new(MAX_SERVERS), clock }
    }

    /// A key of a server, if the server's keys are valid now.
    pub(super) fn key(&self, server: &ServerName, key_id: &str) -> Result<VerifyKey, NoKey> {
        let cached = self.valid(server).ok_or(NoKey::NotFetched)?;
        cached.keys.verify_keys.get(key_id).copied().ok_or(NoKey::KeyUnknown)
    }

    /// The keys of a server. `None` if there are none, or if they are not valid any more.
    pub(super) fn valid(&self, server: &ServerName) -> Option<Arc<CachedKeys>> {
        let now_ms = self.clock.now_ms();
        let now = self.clock.steady();
        let cached = self.servers.get(server)?;
        (now_ms <= cached.keys.valid_until_ts && now <= cached.until).then_some(cached)
    }

    /// Stores keys that were fetched `age` ago.
    pub(super) fn insert(&self, server: &ServerName, keys: KeyAnswer, age: Duration) {
        for left_out in &keys.left_out {
            tracing::debug!(%server, %left_out, "a key is not used");
        }
        let left = MAX_VALIDITY.saturating_sub(age);
        let until = self.clock.steady().saturating_add(left);
        self.servers.insert(server.clone(), Arc::new(CachedKeys { keys, until }));
    }
}
