//! Keys of what only matters to the processes that share a store.

use super::{Key, Tag};

/// A lease, by its name.
pub(crate) fn lease(name: &str) -> Vec<u8> {
    Key::new(Tag::LEASE).bytes(name.as_bytes()).0
}

/// The sizes of the whole store, as some process has measured them. No lease has this name.
pub(crate) fn measurement() -> Vec<u8> {
    lease("sizes")
}

/// The lease of a repair.
pub(crate) fn repair() -> Vec<u8> {
    Key::new(Tag::REPAIR).0
}

/// Whether a record is a lease, or else only of use to the processes that share the store.
pub(crate) fn is_lease(key: &[u8]) -> bool {
    key.first().is_some_and(|it| [Tag::LEASE.0, Tag::REPAIR.0].contains(it))
}
