//! `backscroll verify`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::progress_target;
use crate::{
    backup,
    store::{Options, Store},
    verify::{self, Fault, Watch},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Derives everything again that can be derived (ids, hashes, edges, extremities, counters, states,
redactions) and compares it with what is held. Changes nothing. The service must not be running on
the directory. One line a fault on standard output; exit code 1 if there is any.")]
pub(super) struct Args {
    /// Where the store lies.
    #[arg(
        long,
        env = "BACKSCROLL_DATA_DIR",
        value_name = "DIR",
        required_unless_present = "backup"
    )]
    data_dir: Option<PathBuf>,

    /// Check a backup instead: checksums, ids and counts, without restoring it.
    #[arg(long, env = "BACKSCROLL_BACKUP", value_name = "DIR")]
    backup: Option<PathBuf>,

    /// Memory for the store's caches, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,
}

pub(super) fn run(args: Args) -> anyhow::Result<bool> {
    let Args { data_dir, backup, cache_mib } = args;
    if let Some(dir) = backup {
        return check_backup(&dir);
    }
    let data_dir = data_dir.context("give --data-dir or --backup")?;
    anyhow::ensure!(data_dir.is_dir(), "{} is no directory", data_dir.display());
    let options = Options { data_dir, cache_bytes: cache_mib << 20, reserved_bytes: 0 };
    let store = Store::open(&options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    let style = "{wide_bar} {pos}/{len} events {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::with_draw_target(Some(verify::extent(&store)?), progress_target());
    let mut watcher = Watcher { progress: progress.with_style(style), faults: 0 };
    verify::verify(&store, &mut watcher)?;
    watcher.progress.finish_and_clear();
    let (events, faults) = (watcher.progress.position(), watcher.faults);
    println!("{events} events looked at, {faults} faults");
    Ok(faults == 0)
}

fn check_backup(dir: &Path) -> anyhow::Result<bool> {
    let rooms = backup::rooms(dir)?;
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

impl Watch for Watcher {
    fn events(&mut self, count: u32) {
        self.progress.inc(count.into());
    }

    fn fault(&mut self, fault: Fault) {
        self.faults += 1;
        self.progress.suspend(|| println!("{fault}"));
    }
}
