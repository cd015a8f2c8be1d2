//! The command `backscroll compact`.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use indicatif::{HumanBytes, HumanCount, ProgressBar};

use super::{Mib, StoreArgs, out, progress_target};
use crate::store::{Options, Place, Store, caught};

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
    let options = |place: Place| Options::of(place, cache_mib.bytes);
    let cannot_open = |place: &Place| format!("cannot open the store {place}");
    let copy = place.in_dir(partial.clone());
    let from = Store::open(&options(place.clone())).with_context(|| cannot_open(&place))?;
    let to = Store::open_copy(&options(copy.clone())).with_context(|| cannot_open(&copy))?;
    let progress = ProgressBar::with_draw_target(None, progress_target());
    let copied = caught(|| from.copy_into(&to, &mut |count| progress.inc(count)));
    progress.finish_and_clear();
    copied??;
    let records = HumanCount(progress.position());
    let sizes = [from.bytes()?, to.bytes()?].map(HumanBytes);
    // Both are closed before the copy gets its name.
    drop((from, to));
    fs::rename(&partial, &into).with_context(|| format!("cannot rename {}", partial.display()))?;
    if let Some(parent) = into.parent().filter(|it| !it.as_os_str().is_empty()) {
        File::open(parent).and_then(|it| it.sync_all()).context("cannot sync the directory")?;
    }
    let [before, after] = sizes;
    out::line(format_args!(
        "{records} records in {}; {before} before, {after} now",
        into.display()
    ))?;
    Ok(())
}
