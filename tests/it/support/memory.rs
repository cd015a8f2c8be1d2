//! A temporary store, for calling use cases directly, without a socket.

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use tempfile::TempDir;

/// A context over a temporary store.
pub(crate) struct Memory {
    // Fields are dropped in order: the store is closed before its folder is removed.
    pub(crate) cx: Context,
    _dir: TempDir,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        Self { cx: Context::new(Store::open(&options).unwrap()), _dir: dir }
    }
}
