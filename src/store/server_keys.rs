//! The signing keys of servers, as gateways fetched them.

use super::{FetchedKeys, Store, StoreError, View, codec::add_checksum, keys};

impl Store {
    /// The signing keys of a server, as they were stored last; `None` if none were.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn server_keys(&self, server_name: &str) -> Result<Option<FetchedKeys>, StoreError> {
        self.read("server keys", &keys::server_keys(server_name), FetchedKeys::decode)
    }

    /// Stores the signing keys of a server in place of those it has. On disk when this returns.
    pub fn put_server_keys(
        &self,
        server_name: &str,
        fetched: &FetchedKeys,
    ) -> Result<(), StoreError> {
        let key = keys::server_keys(server_name);
        let value = add_checksum(&key, fetched.encode());
        self.engine.put([(key, Some(value.into()))].into())?;
        self.flush()
    }
}
