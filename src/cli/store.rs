//! The flags that say where the store is.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::store::Place;

/// Where the store is.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "place", required = true, multiple = true)]
pub(super) struct StoreArgs {
    /// The directory of a store that sled keeps: the same as `--store sled:DIR`.
    #[arg(long, env = "BACKSCROLL_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// The store: `sled:DIR` or `fjall:DIR`, a directory that one of these two libraries keeps. It is
    /// created if it does not exist, and only one process may use it. Used instead of `--data-dir` if
    /// both are given.
    #[arg(long, env = "BACKSCROLL_STORE", value_name = "STORE")]
    pub(super) store: Option<Place>,
}

impl StoreArgs {
    /// Where the store is.
    ///
    /// # Errors
    /// If no flag says that.
    pub(super) fn place(self) -> anyhow::Result<Place> {
        let Self { data_dir, store } = self;
        store.or(data_dir.map(Place::Sled)).context("give --store or --data-dir")
    }
}
