//! What was measured, as tables and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rooms::Shape;

/// Everything that was measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) rooms: Vec<RoomRow>,
    /// `None` when `--ingest 0` skipped the measurement.
    pub(crate) ingest: Option<Ingest>,
    pub(crate) loaded: Loaded,
}

/// The part of a report that the plot is drawn from.
#[derive(Deserialize)]
pub(crate) struct Plotted {
    pub(crate) rooms: Vec<PlottedRoom>,
}

/// A point of the plot.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct PlottedRoom {
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) median_us: f64,
}

impl From<&RoomRow> for PlottedRoom {
    fn from(row: &RoomRow) -> Self {
        Self { shape: row.shape, size: row.size, median_us: row.median_us }
    }
}

/// One endpoint, measured at one target: the limit, both services, one service, or the use case.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) endpoint: &'static str,
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    pub(crate) of_the_limit: f64,
    pub(crate) median_us: f64,
    pub(crate) ninety_ninth_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) allocations: Option<u64>,
    pub(crate) peak_kib: Option<u64>,
    pub(crate) response_kib: f64,
}

/// One room, measured through both services over one connection.
#[derive(Serialize)]
pub(crate) struct RoomRow {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) events: u32,
    pub(crate) visited_per_event: f64,
    pub(crate) median_us: f64,
    pub(crate) ninety_ninth_us: f64,
}

/// Appending with a hundred events in flight, each durable when it is acknowledged.
#[derive(Serialize)]
pub(crate) struct Ingest {
    pub(crate) events_per_second: f64,
    pub(crate) cpu_us_per_event: f64,
    pub(crate) disk_bytes: u64,
    pub(crate) json_bytes: u64,
}

/// What all rooms together need.
#[derive(Default, Serialize)]
pub(crate) struct Loaded {
    pub(crate) events: u32,
    pub(crate) json_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// Resident memory of the history service: the highest while loading.
    pub(crate) highest_kib: u32,
    /// Resident memory after the store was opened again.
    pub(crate) opened_kib: u32,
    /// Resident memory after all requests.
    pub(crate) serving_kib: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24}{:<19}{:>11}{:>9}{:>10}{:>10}{:>13}{:>13}",
            "", "", "requests/s", "of limit", "p50 µs", "p99 µs", "CPU µs each", "allocations"
        )?;
        let mut last = "";
        for row in &self.rows {
            let endpoint = if row.endpoint == last { "" } else { row.endpoint };
            last = row.endpoint;
            let allocations = row.allocations.map(|it| it.to_string()).unwrap_or_default();
            writeln!(
                f,
                "{endpoint:<24}{:<19}{:>11.0}{:>9.2}{:>10.0}{:>10.0}{:>13.0}{allocations:>13}",
                row.name,
                row.per_second,
                row.of_the_limit,
                row.median_us,
                row.ninety_ninth_us,
                row.cpu_us
            )?;
            if let Some(peak) = row.peak_kib {
                let response = row.response_kib;
                writeln!(
                    f,
                    "{:24}a response has {response:.0} KiB, and held at most {peak} KiB of memory",
                    ""
                )?;
            }
        }
        writeln!(
            f,
            "\n{:<24}{:>9}{:>10}{:>10}{:>20}",
            "room", "events", "p50 µs", "p99 µs", "visited per event"
        )?;
        for row in &self.rooms {
            writeln!(
                f,
                "{:<24}{:>9}{:>10.0}{:>10.0}{:>20.2}",
                row.name, row.events, row.median_us, row.ninety_ninth_us, row.visited_per_event
            )?;
        }
        if let Some(it) = &self.ingest {
            let rate = it.events_per_second;
            let cpu = it.cpu_us_per_event;
            let name = "ingest, durable, 100 in flight";
            writeln!(f, "\n{name:<45}{rate:>8.0} events/s{cpu:>8.0} µs of CPU each")?;
            let ratio = ratio_of(it.disk_bytes, it.json_bytes);
            writeln!(f, "{:<45}{ratio:>8.2}", "its disk bytes / JSON bytes")?;
        }
        let it = &self.loaded;
        let disk = ratio_of(it.disk_bytes, it.json_bytes);
        let [highest, opened, serving] =
            [it.highest_kib, it.opened_kib, it.serving_kib].map(|it| it / 1024);
        writeln!(
            f,
            "\nall rooms: {} events, disk bytes / JSON bytes {disk:.2}; resident MiB of history: \
             {highest} at most while loading, {opened} after opening again, {serving} after serving",
            it.events
        )
    }
}

fn ratio_of(part: u64, whole: u64) -> f64 {
    let kib = |bytes: u64| f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX));
    kib(part) / kib(whole)
}
