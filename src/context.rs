//! What a use case is given: the store, the keys that are known, and what is counted. Plain data,
//! shared by all requests.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    backlog::Backlog,
    metrics::Metrics,
    pdu::ServerKeys,
    slowest::Slowest,
    store::{Store, StoreError},
};

/// What a use case is given.
pub struct Context {
    /// Memory.
    pub store: Store,
    /// What is counted.
    pub metrics: Metrics,
    /// The slowest walks.
    pub slowest: Slowest,
    /// Rooms in which more is left to work out than an append waits for.
    pub backlog: Backlog,
    /// Keys that were looked up, and whether there were any: they change only through
    /// [`put_server_keys`](Self::put_server_keys).
    server_keys: RwLock<BTreeMap<String, Option<Arc<ServerKeys>>>>,
}

/// Servers whose keys are remembered; beyond that the memory is begun anew.
const REMEMBERED_SERVERS: usize = 10_000;

impl Context {
    /// Around an open store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self::counted(store, Metrics::new())
    }

    /// Around an open store; counts go on where they are.
    #[must_use]
    pub fn counted(store: Store, metrics: Metrics) -> Self {
        let (slowest, server_keys) = (Slowest::default(), RwLock::default());
        Self { store, metrics, slowest, backlog: Backlog::default(), server_keys }
    }

    /// The keys of a server, if they are known.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn server_keys(&self, server_name: &str) -> Result<Option<Arc<ServerKeys>>, StoreError> {
        let remembered = self.server_keys.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = remembered.get(server_name) {
            return Ok(keys.clone());
        }
        drop(remembered);
        let answer = self.store.server_keys(server_name)?;
        let keys = answer.and_then(|it| ServerKeys::parse(&it).ok()).map(Arc::new);
        let mut remembered = self.server_keys.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_SERVERS {
            remembered.clear();
        }
        remembered.insert(server_name.to_owned(), keys.clone());
        Ok(keys)
    }

    /// Keeps the keys of a server, unless those held are valid for longer; on disk when this
    /// returns. They were checked by the caller.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn put_server_keys(&self, keys: ServerKeys, answer: &[u8]) -> Result<(), StoreError> {
        let mut remembered = self.server_keys.write().unwrap_or_else(PoisonError::into_inner);
        let server_name = keys.server_name().as_str().to_owned();
        // Under the lock: of two that come at once, the later one stays.
        let held = self.store.server_keys(&server_name)?;
        let held = held.and_then(|it| ServerKeys::parse(&it).ok());
        if held.is_some_and(|held| held.valid_until_ts() > keys.valid_until_ts()) {
            return Ok(());
        }
        self.store.put_server_keys(&server_name, answer)?;
        remembered.insert(server_name, Some(Arc::new(keys)));
        Ok(())
    }
}
