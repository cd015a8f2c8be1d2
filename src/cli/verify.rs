//! `backscroll verify`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    ServerArgs,
    client::{connect, told},
    out, progress_target,
};
use crate::{
    backup,
    proto::v1 as pb,
    store::{Options, Store, caught},
    verify::{self, Fault, Repaired, Watch},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Derives everything again that can be derived (ids, hashes, edges, extremities, counters, states,
redactions), compares it with what is held, and looks for records that nothing leads to. Changes
nothing without --repair. With --data-dir the service must not be running on the directory; with
--online it looks through its own store while it serves, and rests in between. One line a fault on
standard output; exit code 1 if there is any.

With --repair, what follows from sound records is derived from them again, and the store is looked
through once more; each line says what was done, or why nothing was; exit code 0 only if no fault is
left. Repaired are:
  ids that do not lead to their events; depths, edges, notes of what is missing; the order of arrival
  states after events, the current state and its members; redactions that are not heeded
  counters, forward extremities, marks of what is followed
  notes that nothing leads to, state records that nothing needs
Not repaired, but for a backup: bodies that do not hash to their ids, or are lost; nodes, which hold
the verdicts; states that came with events; what sled cannot read. A room of which any of these is
wrong is left alone as a whole: `backscroll delete-room --may-return` and importing its file of a
backup put it back. What is hidden stays hidden, for its redaction may have been lost. Make a copy of
the directory first.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// Ask the running service to do it.
    #[arg(long, env = "BACKSCROLL_ONLINE", conflicts_with = "backup")]
    online: bool,

    /// With --online: how much of the time it may work, in percent of one core.
    #[arg(
        long,
        env = "BACKSCROLL_BUSY_PERCENT",
        default_value_t = 25,
        value_parser = clap::value_parser!(u32).range(1..=100),
        value_name = "PERCENT"
    )]
    busy_percent: u32,

    /// Where the store lies.
    #[arg(
        long,
        env = "BACKSCROLL_DATA_DIR",
        value_name = "DIR",
        required_unless_present_any = ["backup", "online"]
    )]
    data_dir: Option<PathBuf>,

    /// Check a backup instead: checksums, ids and counts, without restoring it.
    #[arg(long, env = "BACKSCROLL_BACKUP", value_name = "DIR")]
    backup: Option<PathBuf>,

    /// Derive again what is wrong but follows from what is sound.
    #[arg(
        long,
        env = "BACKSCROLL_REPAIR",
        conflicts_with_all = ["backup", "online"],
        requires = "data_dir"
    )]
    repair: bool,

    /// Memory for the store's caches, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let Args { server, online, busy_percent, data_dir, backup, repair, cache_mib } = args;
    if online {
        return ask(&server, busy_percent).await;
    }
    if let Some(dir) = backup {
        return check_backup(&dir);
    }
    let data_dir = data_dir.context("give --data-dir or --backup")?;
    anyhow::ensure!(data_dir.is_dir(), "{} is no directory", data_dir.display());
    let options = Options::plain(data_dir, cache_mib << 20);
    let store = Store::open(&options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    if repair {
        return mend(&store);
    }
    let mut watcher = Watcher::new(caught(|| verify::extent(&store))??);
    let ended = caught(|| verify::verify(&store, &mut watcher))??;
    anyhow::ensure!(ended.is_continue(), "it was not looked through to the end");
    watcher.finish()
}

/// Repairs, and says of each fault what came of it. Whether none is left.
fn mend(store: &Store) -> anyhow::Result<bool> {
    let progress = bar(caught(|| verify::extent(store))??);
    let outcome = caught(|| verify::repair(store, &mut |count| progress.inc(count.into())));
    progress.finish_and_clear();
    let Repaired { mended, left, unused_states } = outcome??;
    for (fault, remedy) in &mended {
        out::line(format_args!("{fault}: repaired, {}", remedy.done()))?;
    }
    for (fault, why) in &left {
        out::line(format_args!("{fault}: not repaired: {why}"))?;
    }
    if unused_states > 0 {
        out::line(format_args!("{unused_states} state records that nothing needs removed"))?;
    }
    out::line(format_args!("{} faults repaired, {} left", mended.len(), left.len()))?;
    Ok(left.is_empty())
}

/// Has the running service do it.
async fn ask(server: &ServerArgs, busy_percent: u32) -> anyhow::Result<bool> {
    let mut admin = connect(server).await?.admin;
    let request = pb::VerifyRequest { max_cpu_percent: busy_percent };
    let answers = admin.verify(request).await.map_err(|status| told(&status))?;
    let (mut answers, mut watcher, mut done) = (answers.into_inner(), Watcher::new(0), false);
    while let Some(answer) = answers.message().await.map_err(|status| told(&status))? {
        watcher.progress.set_length(answer.total_event_count.max(answer.verified_event_count));
        watcher.progress.set_position(answer.verified_event_count);
        for pb::Fault { room_id, event_id, description } in answer.faults {
            let named = [room_id, event_id, description].into_iter().filter(|it| !it.is_empty());
            watcher.say(named.collect::<Vec<_>>().join(" "));
        }
        done = answer.done;
    }
    anyhow::ensure!(done, "the service ended before all was looked at; ask again");
    watcher.finish()
}

fn check_backup(dir: &Path) -> anyhow::Result<bool> {
    let (rooms, _) = backup::rooms(dir)?;
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
    out::line(format_args!("{} rooms looked at, {faults} faults", rooms.len()))?;
    Ok(faults == 0)
}

fn bar(events: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} events {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(events), progress_target()).with_style(style)
}

struct Watcher {
    progress: ProgressBar,
    faults: u64,
    unused_states: u64,
    /// Whether what was found could be said.
    said: io::Result<()>,
}

impl Watcher {
    fn new(extent: u64) -> Self {
        Self { progress: bar(extent), faults: 0, unused_states: 0, said: Ok(()) }
    }

    fn say(&mut self, fault: impl fmt::Display) {
        self.faults += 1;
        let said = self.progress.suspend(|| out::line(fault));
        self.said = std::mem::replace(&mut self.said, Ok(())).and(said);
    }

    /// Says how it was. Whether all is well.
    fn finish(self) -> anyhow::Result<bool> {
        let Self { progress, faults, unused_states, said } = self;
        progress.finish_and_clear();
        said?;
        if unused_states > 0 {
            out::line(format_args!(
                "{unused_states} state records that nothing needs, which is no fault: a purge of \
                 their rooms removes them, and so does --repair"
            ))?;
        }
        out::line(format_args!("{} events looked at, {faults} faults", progress.position()))?;
        Ok(faults == 0)
    }
}

impl Watch for Watcher {
    fn events(&mut self, count: u32) {
        self.progress.inc(count.into());
    }

    fn fault(&mut self, fault: Fault) {
        self.say(fault);
    }

    fn unused_states(&mut self, _room_id: &str, records: u64) {
        self.unused_states += records;
    }
}
