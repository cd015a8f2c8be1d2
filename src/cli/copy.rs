//! The command `backscroll copy`.

use anyhow::{Context as _, ensure};
use indicatif::{HumanBytes, HumanCount, ProgressBar};

use super::{Mib, StoreArgs, out, progress_target, verify};
use crate::store::{Options, Place, Store, caught};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Leads from one engine to another, such as
  backscroll copy --data-dir ./data --to fjall:./data-fjall
The service must not be running on either store. If the command is interrupted, run it again: it goes on.
Until it has ended, no other command opens the copy. At the end the copy is verified; then start the
service on it, and keep the original until you trust the copy.")]
pub(super) struct CopyArgs {
    #[command(flatten)]
    from: StoreArgs,

    /// The store to copy into: `sled:DIR` or `fjall:DIR`. It must not exist, or be an interrupted copy.
    #[arg(long, env = "BACKSCROLL_COPY_TO", value_name = "STORE")]
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
    let options = |place| Options::of(place, cache_mib.bytes);
    let cannot_open = |place: &Place| format!("cannot open the store {place}");
    let to = options(to);
    let from = options(from);
    let source = Store::open(&from).with_context(|| cannot_open(&from.place))?;
    let copy = Store::open_copy(&to).with_context(|| cannot_open(&to.place))?;
    let progress = ProgressBar::with_draw_target(None, progress_target());
    let copied = caught(|| source.copy_into(&copy, &mut |count| progress.inc(count)));
    progress.finish_and_clear();
    copied??;
    let records = HumanCount(progress.position());
    let [before, after] = [source.bytes()?, copy.bytes()?].map(HumanBytes);
    out::line(format_args!("{records} records in {}; {before} before, {after} now", to.place))?;
    verify::verify_store(&copy)
}
