//! How fast events are taken, and what they take on disk.

use std::{fs, path::Path, time::Duration};

use crate::{
    Flags,
    children::{Server, disk_bytes},
    load,
    report::{Ingest, Writing},
    rooms::{Plan, Shape},
};

/// As many as a homeserver keeps unacknowledged.
const IN_FLIGHT: usize = 100;

/// Times one room without and with the keys of its servers, each into a store of its own, and
/// verification alone in between.
pub(crate) async fn measure(folder: &Path, flags: &Flags) -> anyhow::Result<Writing> {
    let (hashes, disk, json) = ingest(&folder.join("hashes"), flags, false).await?;
    let verifications = load::verifications_per_second(Duration::from_secs(1));
    let (signatures, _, _) = ingest(&folder.join("signatures"), flags, true).await?;
    Ok(Writing { hashes, signatures, verifications, disk_bytes: disk, json_bytes: json })
}

async fn ingest(
    folder: &Path,
    flags: &Flags,
    with_keys: bool,
) -> anyhow::Result<(Ingest, u64, u64)> {
    fs::create_dir_all(folder)?;
    let history = Server::history(folder, flags.cache_mib)?;
    if with_keys {
        load::publish_keys(&history.url()).await?;
    }
    let plan = Plan { name: "ingest".to_owned(), shape: Shape::Line, size: flags.ingest };
    let before = history.process().cpu()?;
    let (made, elapsed) = load::timed(&history.url(), plan, IN_FLIGHT).await?;
    let cpu = history.process().cpu()? - before;
    history.stop()?;
    let ingest = Ingest {
        events_per_second: f64::from(made.events) / elapsed.as_secs_f64(),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / f64::from(made.events),
    };
    Ok((ingest, disk_bytes(&folder.join("data"))?, made.json_bytes))
}
