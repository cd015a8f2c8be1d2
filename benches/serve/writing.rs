//! How fast events are taken, and what they take on disk.

use std::{fs, path::Path};

use crate::{
    Flags,
    children::{Server, disk_bytes},
    load,
    report::{Ingest, Writing},
    rooms::{Plan, Shape},
};

/// As many as a homeserver keeps unacknowledged.
const IN_FLIGHT: usize = 100;

/// Times one room.
pub(crate) async fn measure(folder: &Path, flags: &Flags) -> anyhow::Result<Writing> {
    fs::create_dir_all(folder)?;
    let history = Server::history(folder, flags.cache_mib)?;
    let plan = Plan { name: "ingest".to_owned(), shape: Shape::Line, size: flags.ingest };
    let before = history.process().cpu()?;
    let (made, elapsed) = load::timed(&history.url(), plan, IN_FLIGHT).await?;
    let cpu = history.process().cpu()? - before;
    history.stop()?;
    let ingest = Ingest {
        events_per_second: f64::from(made.events) / elapsed.as_secs_f64(),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / f64::from(made.events),
    };
    let disk_bytes = disk_bytes(&folder.join("data"))?;
    Ok(Writing { ingest, disk_bytes, json_bytes: made.json_bytes })
}
