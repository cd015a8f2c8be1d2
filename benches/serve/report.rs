//! What was measured, for people, for programs, and as a picture.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::rooms::Shape;

/// Everything that was measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) rooms: Vec<RoomRow>,
    pub(crate) writing: Option<Writing>,
    pub(crate) loaded: Loaded,
}

/// One endpoint at one depth of the house.
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
    pub(crate) answer_kib: f64,
}

/// One room, asked through both services by one connection.
#[derive(Serialize)]
pub(crate) struct RoomRow {
    pub(crate) name: String,
    #[serde(skip)]
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) events: u32,
    pub(crate) visited_per_event: f64,
    pub(crate) median_us: f64,
    pub(crate) ninety_ninth_us: f64,
}

/// How events are taken.
#[derive(Serialize)]
pub(crate) struct Writing {
    pub(crate) ingest: Ingest,
    pub(crate) disk_bytes: u64,
    pub(crate) json_bytes: u64,
}

/// A hundred in flight, each durable when it is acknowledged.
#[derive(Serialize)]
pub(crate) struct Ingest {
    pub(crate) events_per_second: f64,
    pub(crate) cpu_us_per_event: f64,
}

/// What all rooms together take.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Loaded {
    pub(crate) events: u32,
    pub(crate) json_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// The history service's resident memory: at most while loading, after opening again, and
    /// after all was asked.
    pub(crate) highest_kib: u32,
    pub(crate) opened_kib: u32,
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
                let answer = row.answer_kib;
                writeln!(f, "{:24}an answer has {answer:.0} KiB, and held at most {peak} KiB", "")?;
            }
        }
        writeln!(
            f,
            "\n{:<24}{:>9}{:>10}{:>10}{:>20}",
            "room", "events", "p50 µs", "p99 µs", "looked at per event"
        )?;
        for row in &self.rooms {
            writeln!(
                f,
                "{:<24}{:>9}{:>10.0}{:>10.0}{:>20.2}",
                row.name, row.events, row.median_us, row.ninety_ninth_us, row.visited_per_event
            )?;
        }
        if let Some(it) = &self.writing {
            let line = |f: &mut fmt::Formatter<'_>, name, it: &Ingest| {
                let (rate, cpu) = (it.events_per_second, it.cpu_us_per_event);
                writeln!(f, "{name:<45}{rate:>8.0} events/s{cpu:>8.0} µs of CPU each")
            };
            writeln!(f)?;
            line(f, "ingest, durable, 100 in flight", &it.ingest)?;
            let ratio = ratio_of(it.disk_bytes, it.json_bytes);
            writeln!(f, "{:<45}{ratio:>8.2}", "its disk bytes, of JSON bytes")?;
        }
        let it = &self.loaded;
        let disk = ratio_of(it.disk_bytes, it.json_bytes);
        let [highest, opened, serving] =
            [it.highest_kib, it.opened_kib, it.serving_kib].map(|it| it / 1024);
        writeln!(
            f,
            "\nall rooms: {} events, disk bytes {disk:.2} of JSON bytes; resident MiB of history: at \
             most {highest} while loading, {opened} opened again, {serving} after serving",
            it.events
        )
    }
}

fn ratio_of(part: u64, whole: u64) -> f64 {
    let kib = |bytes: u64| f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX));
    kib(part) / kib(whole)
}

impl Report {
    /// Median latency over the size of rooms and the number of members, both in powers of ten.
    pub(crate) fn plot(&self) -> Result<String, fmt::Error> {
        const WIDTH: f64 = 720.0;
        const HEIGHT: f64 = 320.0;
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' \
             font-family='sans-serif' font-size='12'>"
        );
        let highest = self.rooms.iter().map(|it| it.median_us).fold(1.0, f64::max) * 1.2;
        for (at, shape, title) in [
            (60.0, Shape::Line, "p50 µs over events of the room"),
            (420.0, Shape::Members, "p50 µs over members, visibility joined"),
        ] {
            let (mut line, mut marks) = (String::new(), String::new());
            let rows = self.rooms.iter().filter(|it| it.shape == shape);
            for (row, x) in rows.zip((0u32..).map(|nth| at + 30.0 + f64::from(nth) * 60.0)) {
                let y = HEIGHT - 40.0 - row.median_us / highest * (HEIGHT - 90.0);
                let (below, above) = (HEIGHT - 22.0, y - 8.0);
                write!(line, "{x:.0},{y:.0} ")?;
                write!(
                    marks,
                    "<circle cx='{x:.0}' cy='{y:.0}' r='3'/>\
                     <text x='{x:.0}' y='{above:.0}' text-anchor='middle'>{:.0}</text>\
                     <text x='{x:.0}' y='{below:.0}' text-anchor='middle'>{}</text>",
                    row.median_us, row.size
                )?;
            }
            let (bottom, right) = (HEIGHT - 40.0, at + 280.0);
            write!(
                svg,
                "<text x='{at}' y='24'>{title}</text>\
                 <path d='M{at} 40V{bottom}H{right}' fill='none' stroke='gray'/>\
                 <polyline points='{line}' fill='none' stroke='black'/>{marks}"
            )?;
        }
        Ok(svg + "</svg>\n")
    }
}
