//! The command `backscroll copy`.

use anyhow::{Context as _, ensure};
use indicatif::{HumanBytes, HumanCount, ProgressBar};

use super::{Mib, StoreArgs, out, progress_target, store::PlaceParser, verify};
use crate::store::{Options, Place, Store, caught};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Leads from one engine to another, such as
  backscroll copy --data-dir ./data --to fjall:./data-fjall
  backscroll copy --data-dir ./data --to postgres://backscroll@db.example.org/backscroll
The service must not be running on either store. If the command is interrupted, run it again: it goes on.
Until it has ended, no other command opens the copy. At the end the copy is verified; then start the
service on it, and keep the original until you trust the copy.")]
pub(super) struct CopyArgs {
    #[command(flatten)]
    from: StoreArgs,

    /// The store to copy into: `sled:DIR`, `fjall:DIR` or `postgres://…`. A directory must not exist, a
    /// database must be prepared and empty; or it is an interrupted copy.
    #[arg(
        long,
        env = "BACKSCROLL_COPY_TO",
        hide_env_values = true,
        value_name = "STORE",
        value_parser = PlaceParser
    )]
    to: Place,

    /// Memory for the caches of each store, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value = "256", value_name = "MIB")]
    cache_mib: Mib,
}

/// Copies, and verifies the copy. Returns whether the copy has no faults.
pub(super) fn run(args: CopyArgs) -> anyhow::Result<bool> {
    let CopyArgs { from, to, cache_mib } = args;
    let from = from.place()?;
    ensure!(from.exists(), "{from} does not exist");
    ensure!(from != to, "{from} would be copied into itself; give another --to");
    let Copied { records, sizes: [before, after], copy } = copy_store(&from, &to, cache_mib)?;
    out::line(format_args!("{records} records in {to}; {before} before, {after} now"))?;
    verify::verify_store(&copy)
}

/// What a copy has done.
pub(super) struct Copied {
    /// The number of records that were looked at.
    pub(super) records: HumanCount,
    /// The sizes of the original and of the copy, on disk.
    pub(super) sizes: [HumanBytes; 2],
    /// The copy. The original is closed.
    pub(super) copy: Store,
}

/// Copies a store, and shows the progress.
pub(super) fn copy_store(from: &Place, to: &Place, cache_mib: Mib) -> anyhow::Result<Copied> {
    let options = |place: &Place| Options::of(place.clone(), cache_mib.bytes);
    let cannot_open = |place: &Place| format!("cannot open the store {place}");
    let source = Store::open(&options(from)).with_context(|| cannot_open(from))?;
    let copy = Store::open_copy(&options(to)).with_context(|| cannot_open(to))?;
    let progress = ProgressBar::with_draw_target(None, progress_target());
    let copied = caught(|| source.copy_into(&copy, &|count| progress.inc(count)));
    progress.finish_and_clear();
    copied??;
    let records = HumanCount(progress.position());
    let sizes = [source.bytes()?, copy.bytes()?].map(HumanBytes);
    Ok(Copied { records, sizes, copy })
}
