//! A store that is gone afterwards, and the use cases over it without a socket in between.

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use tempfile::TempDir;

/// A context over a store of its own.
pub(crate) struct Memory {
    // Dropped first: the store has to be closed before its folder goes.
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
