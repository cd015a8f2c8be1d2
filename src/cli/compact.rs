//! The command `backscroll compact`.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};

use super::{
    Mib, StoreArgs,
    copy::{Copied, copy_store},
    out,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The store is not changed. The copy has the same records, and is smaller if much was removed. It contains
no byte of content that was removed, which the files of the original may still contain. The service must
not be running on either directory. Check the copy with `backscroll verify`, start the service on it, and
delete the original. If the command is interrupted, delete the directory whose name ends in .partial and
run it again.")]
pub(super) struct CompactArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// The directory for the copy, which the same library keeps. It must not exist.
    #[arg(long, env = "BACKSCROLL_COMPACT_INTO", value_name = "DIR")]
    into: PathBuf,

    /// Memory for the caches of each store, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value = "256", value_name = "MIB")]
    cache_mib: Mib,
}

pub(super) fn run(args: CompactArgs) -> anyhow::Result<()> {
    let CompactArgs { store, into, cache_mib } = args;
    let place = store.place()?;
    ensure!(place.exists(), "{place} does not exist");
    ensure!(!into.exists(), "{} exists already; give another directory", into.display());
    let mut partial = into.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    ensure!(
        !partial.exists(),
        "{} exists already: a copy was interrupted; delete it first",
        partial.display()
    );
    let copied = copy_store(&place, &place.in_dir(partial.clone()), cache_mib)?;
    let Copied { records, sizes: [before, after], copy } = copied;
    // It is closed before it gets its name.
    drop(copy);
    fs::rename(&partial, &into).with_context(|| format!("cannot rename {}", partial.display()))?;
    if let Some(parent) = into.parent().filter(|it| !it.as_os_str().is_empty()) {
        File::open(parent).and_then(|it| it.sync_all()).context("cannot sync the directory")?;
    }
    out::line(format_args!(
        "{records} records in {}; {before} before, {after} now",
        into.display()
    ))?;
    Ok(())
}
