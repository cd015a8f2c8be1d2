//! `backscroll verify`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    ServerArgs,
    client::{connect, told},
    progress_target,
};
use crate::{
    backup,
    proto::v1 as pb,
    store::{Options, Store},
    verify::{self, Fault, Watch},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Derives everything again that can be derived (ids, hashes, edges, extremities, counters, states,
redactions), compares it with what is held, and looks for records that nothing leads to. Changes
nothing. With --data-dir the service must not be running on the directory; with --online it looks
through its own store while it serves, and rests in between. One line a fault on standard output;
exit code 1 if there is any.")]
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

    /// Memory for the store's caches, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let Args { server, online, busy_percent, data_dir, backup, cache_mib } = args;
    if online {
        return ask(&server, busy_percent).await;
    }
    if let Some(dir) = backup {
        return check_backup(&dir);
    }
    let data_dir = data_dir.context("give --data-dir or --backup")?;
    anyhow::ensure!(data_dir.is_dir(), "{} is no directory", data_dir.display());
    let options = Options { data_dir, cache_bytes: cache_mib << 20, reserved_bytes: 0 };
    let store = Store::open(&options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    let mut watcher = Watcher::new(verify::extent(&store)?);
    let ended = verify::verify(&store, &mut watcher)?;
    anyhow::ensure!(ended.is_continue(), "it was not looked through to the end");
    Ok(watcher.finish())
}

/// Has the running service do it.
async fn ask(server: &ServerArgs, busy_percent: u32) -> anyhow::Result<bool> {
    let mut admin = connect(server).await?.admin;
    let request = pb::VerifyRequest { busy_percent };
    let answers = admin.verify(request).await.map_err(|status| told(&status))?;
    let (mut answers, mut watcher, mut done) = (answers.into_inner(), Watcher::new(0), false);
    while let Some(answer) = answers.message().await.map_err(|status| told(&status))? {
        watcher.progress.set_length(answer.to_look_at_count.max(answer.event_count));
        watcher.progress.set_position(answer.event_count);
        for pb::Fault { room_id, event_id, what } in answer.faults {
            watcher.fault(Fault { room_id, event_id, what });
        }
        done = answer.done;
    }
    anyhow::ensure!(done, "the service ended before all was looked at; ask again");
    Ok(watcher.finish())
}

fn check_backup(dir: &Path) -> anyhow::Result<bool> {
    let (rooms, _) = backup::rooms(dir)?;
    let progress = ProgressBar::with_draw_target(Some(0), progress_target());
    progress.set_length(rooms.iter().map(|it| it.events).sum());
    let mut faults = 0;
    for room in &rooms {
        if let Err(fault) = backup::check_room(dir, room) {
            faults += 1;
            progress.suspend(|| println!("{} {fault}", room.room_id));
        }
        progress.inc(room.events);
    }
    progress.finish_and_clear();
    println!("{} rooms looked at, {faults} faults", rooms.len());
    Ok(faults == 0)
}

struct Watcher {
    progress: ProgressBar,
    faults: u64,
}

impl Watcher {
    fn new(extent: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} events {eta} left");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let progress = ProgressBar::with_draw_target(Some(extent), progress_target());
        Self { progress: progress.with_style(style), faults: 0 }
    }

    /// Says how it was. Whether all is well.
    fn finish(self) -> bool {
        let Self { progress, faults } = self;
        progress.finish_and_clear();
        println!("{} events looked at, {faults} faults", progress.position());
        faults == 0
    }
}

impl Watch for Watcher {
    fn events(&mut self, count: u32) {
        self.progress.inc(count.into());
    }

    fn fault(&mut self, fault: Fault) {
        self.faults += 1;
        self.progress.suspend(|| println!("{fault}"));
    }
}
