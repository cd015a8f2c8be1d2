//! The signing keys of servers, as gateways fetched them.

use super::{
    FetchedKeys, Store, StoreError, View,
    codec::{Malformed, add_checksum, strip_checksum},
    decide::retried,
    engine::{Commit, Effect},
    keys,
};

impl Store {
    /// The signing keys of a server, as they were stored last; `None` if none were.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn server_keys(&self, server_name: &str) -> Result<Option<FetchedKeys>, StoreError> {
        self.read("server keys", &keys::server_keys(server_name), FetchedKeys::decode)
    }

    /// Stores the signing keys of a server in place of those it has, if `replaces` says so; it is given
    /// those, and may be called several times. On disk when this returns.
    ///
    /// # Errors
    /// When the record is damaged. [`StoreError::Conflict`] if others put keys of the server at each try.
    pub fn put_server_keys(
        &self,
        server_name: &str,
        fetched: &FetchedKeys,
        replaces: impl Fn(Option<&FetchedKeys>) -> bool,
    ) -> Result<(), StoreError> {
        let key = keys::server_keys(server_name);
        let is_put = retried(server_name, || {
            let seen = self.engine.see(key.clone())?;
            let held = seen.value.as_ref().map(|it| {
                let held = strip_checksum(&key, it).and_then(FetchedKeys::decode);
                held.map_err(|Malformed| StoreError::corrupt("server keys", &key))
            });
            if !replaces(held.transpose()?.as_ref()) {
                return Ok::<_, StoreError>(Some(false));
            }
            let value = add_checksum(&key, fetched.encode());
            let changes = [(key.clone(), Some(value.into()))].into();
            let commit = self.engine.commit(Some(&seen), changes, Effect::Replaces)?;
            Ok((commit == Commit::Done).then_some(true))
        })?;
        if is_put { self.flush() } else { Ok(()) }
    }
}
