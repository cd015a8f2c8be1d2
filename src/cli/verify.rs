//! `backscroll verify`.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
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
    #[arg(long, env = "BACKSCROLL_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// Memory for the store's caches, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value_t = 256, value_name = "MIB")]
    cache_mib: u64,
}

pub(super) fn run(args: Args) -> anyhow::Result<bool> {
    let Args { data_dir, cache_mib } = args;
    anyhow::ensure!(data_dir.is_dir(), "{} is no directory", data_dir.display());
    let options = Options { data_dir, cache_bytes: cache_mib << 20, reserved_bytes: 0 };
    let store = Store::open(&options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = "{wide_bar} {pos}/{len} events {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::with_draw_target(Some(verify::extent(&store)?), target);
    let mut watcher = Watcher { progress: progress.with_style(style), faults: 0 };
    verify::verify(&store, &mut watcher)?;
    watcher.progress.finish_and_clear();
    let (events, faults) = (watcher.progress.position(), watcher.faults);
    println!("{events} events looked at, {faults} faults");
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
