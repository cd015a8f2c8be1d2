//! How fast the service stores events, and how much space they take on disk.

use std::{fs, path::Path};

use backscroll_testkit::folder::disk_bytes;

use crate::{
    Flags,
    children::Server,
    load,
    report::Ingest,
    rooms::{Plan, Shape},
};

/// Unacknowledged events at the same time.
const IN_FLIGHT: usize = 100;

/// Measures one room over a store of its own.
pub(crate) async fn measure(folder: &Path, flags: &Flags) -> anyhow::Result<Ingest> {
    fs::create_dir_all(folder)?;
    let history = Server::history(folder, flags.cache_mib);
    let plan = Plan { name: "ingest".to_owned(), shape: Shape::Line, size: flags.ingest };
    let before = history.process().cpu()?;
    let load::Timed { made, elapsed } = load::timed(&history.url(), plan, IN_FLIGHT).await?;
    let cpu = history.process().cpu()? - before;
    history.stop()?;
    Ok(Ingest {
        events_per_second: f64::from(made.events) / elapsed.as_secs_f64(),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / f64::from(made.events),
        disk_bytes: disk_bytes(&folder.join("data"))?,
        json_bytes: made.json_bytes,
    })
}
