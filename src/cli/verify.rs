//! The command `backscroll verify`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Mib, RedactedContentDays, ServerArgs, StoreArgs,
    client::{connect, message, service_error},
    out, progress_target,
};
use crate::{
    backup,
    proto::v1 as pb,
    rpc::now_ms,
    store::{Options, Place, Store, caught},
    verify::{self, Fault, Repaired, Watch},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Recomputes all derived records (ids, hashes, edges, extremities, counters, states, redactions), compares
them with the stored ones, and looks for records to which no other record refers. Prints one line for
each fault; the exit code is 1 if there is any. Changes nothing without --repair. With --data-dir the
service must not be running on the directory. With --online the service verifies its own store while it
serves, and pauses between small steps.

With --repair, faulty records that follow from correct ones are derived again, and the store is verified
once more. Each line says what was repaired, or why it was not. The exit code is 0 only if no fault is
left. --repair can correct:
  the index of event ids, depths, edges, notes of missing events, the order of arrival
  states after events, the current state and its members, redactions that were not applied
  counters, forward extremities, marks of events that have successors
  notes and state records to which no other record refers
  content of redacted events that should have been removed
--repair cannot correct event bodies that do not match their ids or are lost, nodes (which contain the
verdicts), states that were given with events, and records that the storage engine cannot read. A room
with such a fault is not changed at all: restore it with `backscroll delete-room --may-return` and
`backscroll import` of its file in a backup. Hidden events stay hidden, because their redactions may be
lost. Copy the directory first.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Let the running service verify its own store.
    #[arg(long, env = "BACKSCROLL_ONLINE", conflicts_with = "backup")]
    online: bool,

    /// With --online: the maximum use of one CPU core, in percent.
    #[arg(
        long,
        env = "BACKSCROLL_MAX_CPU_PERCENT",
        default_value_t = 25,
        value_parser = clap::value_parser!(u32).range(1..=100),
        value_name = "PERCENT"
    )]
    max_cpu_percent: u32,

    /// The directory of a store that sled keeps: the same as `--store sled:DIR`.
    #[arg(
        long,
        env = "BACKSCROLL_DATA_DIR",
        value_name = "DIR",
        required_unless_present_any = ["store", "backup", "online"]
    )]
    data_dir: Option<PathBuf>,

    /// The store: `sled:DIR` or `fjall:DIR`. Used instead of `--data-dir` if both are given.
    #[arg(long, env = "BACKSCROLL_STORE", value_name = "STORE")]
    store: Option<Place>,

    /// Verify the checksums, ids and counts of this backup instead, without restoring it.
    #[arg(long, env = "BACKSCROLL_BACKUP", value_name = "DIR")]
    backup: Option<PathBuf>,

    /// Derive faulty records again if they follow from correct ones.
    #[arg(
        long,
        env = "BACKSCROLL_REPAIR",
        conflicts_with_all = ["backup", "online"]
    )]
    repair: bool,

    /// How long the content of redacted events may stay on disk, in days, or `never` to allow it: what
    /// the service was started with. Content that is there a day longer is a fault.
    #[arg(
        long,
        env = "BACKSCROLL_REDACTED_CONTENT_DAYS",
        default_value = "7",
        value_name = "DAYS"
    )]
    redacted_content_days: RedactedContentDays,

    /// Memory for the caches of the store, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value = "256", value_name = "MIB")]
    cache_mib: Mib,
}

pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<bool> {
    let VerifyArgs {
        server,
        online,
        max_cpu_percent,
        data_dir,
        store,
        backup,
        repair,
        redacted_content_days,
        cache_mib,
    } = args;
    if online {
        return verify_online(&server, max_cpu_percent).await;
    }
    if let Some(dir) = backup {
        return check_backup(&dir);
    }
    let place = StoreArgs { data_dir, store }.place()?;
    anyhow::ensure!(place.exists(), "{place} does not exist");
    let redacted_content = redacted_content_days.0;
    let options = Options { redacted_content, ..Options::of(place, cache_mib.bytes) };
    let store = Store::open(&options)
        .with_context(|| format!("cannot open the store {}", options.place))?;
    if repair {
        return repair_store(&store);
    }
    verify_store(&store)
}

/// Verifies a store, and prints each fault. Returns whether there is none.
pub(super) fn verify_store(store: &Store) -> anyhow::Result<bool> {
    let mut watcher = Watcher::new(caught(|| verify::extent(store))??);
    let ended = caught(|| verify::verify(store, &mut watcher))??;
    anyhow::ensure!(ended.is_continue(), "the store was not verified to the end");
    watcher.finish()
}

/// Repairs the store, and prints the result for each fault. Returns whether no fault is left.
fn repair_store(store: &Store) -> anyhow::Result<bool> {
    let progress = bar(caught(|| verify::extent(store))??);
    let outcome =
        caught(|| verify::repair(store, now_ms(), &mut |count| progress.inc(count.into())));
    progress.finish_and_clear();
    let Repaired { mended, left, unused_states } = outcome??;
    for (fault, remedy) in &mended {
        out::line(format_args!("{fault}: repaired, {}", remedy.done()))?;
    }
    for (fault, why) in &left {
        out::line(format_args!("{fault}: not repaired: {why}"))?;
    }
    if unused_states > 0 {
        out::line(format_args!("{unused_states} unused state records removed"))?;
    }
    out::line(format_args!("{} faults repaired, {} left", mended.len(), left.len()))?;
    Ok(left.is_empty())
}

/// Lets the running service verify its store. Returns whether it found no fault.
async fn verify_online(server: &ServerArgs, max_cpu_percent: u32) -> anyhow::Result<bool> {
    let mut admin = connect(server).await?.admin;
    let request = pb::VerifyRequest { max_cpu_percent };
    let mut responses = message(admin.verify(request).await)?;
    let mut watcher = Watcher::new(0);
    let mut done = false;
    while let Some(response) = responses.message().await.map_err(|status| service_error(&status))? {
        watcher.progress.set_length(response.total_event_count.max(response.verified_event_count));
        watcher.progress.set_position(response.verified_event_count);
        for pb::Fault { room_id, event_id, description } in response.faults {
            let parts = [room_id, event_id, description].into_iter().filter(|it| !it.is_empty());
            watcher.print(parts.collect::<Vec<_>>().join(" "));
        }
        done = response.done;
    }
    anyhow::ensure!(done, "the service ended before the whole store was verified; run it again");
    watcher.finish()
}

/// Verifies a backup. Returns whether it has no fault.
fn check_backup(dir: &Path) -> anyhow::Result<bool> {
    let rooms = backup::contents(dir)?.rooms;
    let progress = ProgressBar::with_draw_target(Some(0), progress_target());
    progress.set_length(rooms.iter().map(|it| it.events).sum());
    let mut faults = 0;
    for room in &rooms {
        if let Err(fault) = backup::check_room(dir, room) {
            faults += 1;
            progress.suspend(|| out::line(format_args!("{} {fault}", room.room_id)))?;
        }
        progress.inc(room.events);
    }
    progress.finish_and_clear();
    out::line(format_args!("{} rooms verified, {faults} faults", rooms.len()))?;
    Ok(faults == 0)
}

fn bar(events: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} events {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(events), progress_target()).with_style(style)
}

/// Draws progress, and prints and counts faults.
struct Watcher {
    progress: ProgressBar,
    faults: u64,
    unused_states: u64,
    /// The first error of printing.
    printed: io::Result<()>,
}

impl Watcher {
    fn new(extent: u64) -> Self {
        Self { progress: bar(extent), faults: 0, unused_states: 0, printed: Ok(()) }
    }

    fn print(&mut self, fault: impl fmt::Display) {
        self.faults += 1;
        let printed = self.progress.suspend(|| out::line(fault));
        self.printed = std::mem::replace(&mut self.printed, Ok(())).and(printed);
    }

    /// Prints the result. Returns whether there is no fault.
    fn finish(self) -> anyhow::Result<bool> {
        let Self { progress, faults, unused_states, printed } = self;
        progress.finish_and_clear();
        printed?;
        if unused_states > 0 {
            out::line(format_args!(
                "{unused_states} unused state records, which are harmless: a purge of their rooms \
                 removes them, and so does --repair"
            ))?;
        }
        out::line(format_args!("{} events verified, {faults} faults", progress.position()))?;
        Ok(faults == 0)
    }
}

impl Watch for Watcher {
    fn events(&mut self, count: u32) {
        self.progress.inc(count.into());
    }

    fn fault(&mut self, fault: Fault) {
        self.print(fault);
    }

    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn unused_states(&mut self, _room_id: &str, records: u64) {
        self.unused_states += records;
    }
}
