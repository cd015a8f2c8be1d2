//! The cursors of feeders: the places from which they continue. The format of a cursor is the
//! feeder's own.

use super::{
    Store, StoreError, View,
    codec::{Malformed, add_checksum},
    keys,
};
use crate::sync;

/// The most feeders that have a cursor.
pub const MAX_CURSORS: usize = 64;

impl Store {
    /// The cursor of a feeder, as it was stored last; `None` if none is stored.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn cursor(&self, feeder_name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let decode = |bytes: &[u8]| Ok::<_, Malformed>(bytes.to_vec());
        self.read("cursor", &keys::cursor(feeder_name), decode)
    }

    /// Stores the cursor of a feeder in place of the one it has; an empty one is removed. On disk
    /// when this returns. Returns false, and stores nothing, if [`MAX_CURSORS`] other feeders have
    /// one.
    pub fn put_cursor(&self, feeder_name: &str, cursor: &[u8]) -> Result<bool, StoreError> {
        let key = keys::cursor(feeder_name);
        let putting = sync::lock(&self.putting_cursor);
        let value = if cursor.is_empty() {
            None
        } else {
            let is_new = self.value(&key)?.is_none();
            if is_new && self.feeders_with_cursor()?.len() >= MAX_CURSORS {
                return Ok(false);
            }
            Some(add_checksum(&key, cursor.to_vec()).into())
        };
        self.engine.put([(key, value)].into())?;
        drop(putting);
        self.flush()?;
        Ok(true)
    }

    /// The names of all feeders that have a cursor, in ascending order.
    pub fn feeders_with_cursor(&self) -> Result<Vec<String>, StoreError> {
        let records = self.scan(&keys::cursors(), None, MAX_CURSORS)?;
        let names = records.iter().filter_map(|(key, _)| keys::text(key));
        Ok(names.map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn a_cursor_is_replaced_removed_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let store = Store::open(&options).unwrap();
        assert_eq!(store.cursor("synapse").unwrap(), None);
        assert!(store.put_cursor("synapse", b"1").unwrap());
        assert!(store.put_cursor("synapse", b"2").unwrap());
        assert!(store.put_cursor("synaps", b"3").unwrap());
        drop(store);
        let store = Store::open(&options).unwrap();
        assert_eq!(store.cursor("synapse").unwrap(), Some(b"2".to_vec()));
        assert_eq!(store.feeders_with_cursor().unwrap(), ["synaps", "synapse"]);
        assert!(store.put_cursor("synaps", b"").unwrap());
        assert_eq!(store.feeders_with_cursor().unwrap(), ["synapse"]);
    }

    #[test]
    fn only_a_bounded_number_of_feeders_has_a_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        for number in 0..MAX_CURSORS {
            assert!(store.put_cursor(&format!("feeder-{number}"), b"1").unwrap());
        }
        assert!(!store.put_cursor("another", b"1").unwrap());
        assert!(store.put_cursor("feeder-7", b"2").unwrap());
        assert!(store.put_cursor("feeder-7", b"").unwrap());
        assert!(store.put_cursor("another", b"1").unwrap());
    }
}
