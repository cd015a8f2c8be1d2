//! Users who asked for erasure. All of them are held in memory, since every served event asks for
//! its sender.

use std::{collections::BTreeSet, ops::Bound};

use super::{Store, StoreError, View, codec::add_checksum, keys};
use crate::sync;

impl Store {
    /// Whether a user asked for erasure.
    pub fn is_erased(&self, user_id: &str) -> bool {
        sync::read(&self.erased_users).contains(user_id)
    }

    /// Whether any user asked for erasure.
    pub fn has_erased_users(&self) -> bool {
        !sync::read(&self.erased_users).is_empty()
    }

    /// The ids of users who asked for erasure, in ascending order, those greater than `after`, at
    /// most `limit`.
    pub fn erased_users(&self, after: &str, limit: usize) -> Vec<String> {
        let users = sync::read(&self.erased_users);
        let range = (Bound::Excluded(after), Bound::Unbounded);
        users.range::<str, _>(range).take(limit).cloned().collect()
    }

    /// Marks a user as erased, or takes the mark back. On disk when this returns.
    pub fn set_erased(&self, user_id: &str, erased: bool) -> Result<(), StoreError> {
        self.learn_sets()?;
        let mut users = sync::write(&self.erased_users);
        let key = keys::erased_user(user_id);
        let value = erased.then(|| add_checksum(&key, Vec::new()).into());
        self.engine.put([(key, value)].into())?;
        if erased {
            users.insert(user_id.to_owned());
        } else {
            users.remove(user_id);
        }
        drop(users);
        self.flush()
    }

    /// Reads all erased users into memory.
    pub(super) fn load_erased_users(&self) -> Result<(), StoreError> {
        // A change by this process waits, so that what it adds is not replaced.
        let mut held = sync::write(&self.erased_users);
        let users = self.scan(&keys::erased_users(), None, usize::MAX)?;
        let users = users.iter().filter_map(|(key, _)| keys::text(key)).map(str::to_owned);
        let users: BTreeSet<String> = users.collect();
        *held = users;
        Ok(())
    }
}
