//! The metrics of the follower, and their names. The label `instance` has names of Synapse's processes;
//! all other labels have values of the program only.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use backscroll_telemetry::register_process;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::time::Instant;

use crate::{
    health::Health,
    history::append::{SendResult, Sent},
};

/// The most processes of a homeserver that have metrics of their own.
const MAX_INSTANCES: usize = 64;

/// What happened to an event that was sent to the history service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventOutcome {
    /// It was stored.
    Appended,
    /// It was held already.
    Duplicate,
    /// It was held with other bytes or another verdict, which were replaced.
    Replaced,
    /// It was stored as an unreadable event.
    Unreadable,
    /// It was purged before, and was not stored again.
    Purged,
    /// It was refused.
    Refused,
    /// It was taken out of the graph: removed, or made an outlier.
    Removed,
}

impl EventOutcome {
    const ALL: [Self; 7] = [
        Self::Appended,
        Self::Duplicate,
        Self::Replaced,
        Self::Unreadable,
        Self::Purged,
        Self::Refused,
        Self::Removed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Duplicate => "duplicate",
            Self::Replaced => "replaced",
            Self::Unreadable => "unreadable",
            Self::Purged => "purged",
            Self::Refused => "refused",
            Self::Removed => "removed",
        }
    }
}

/// Whether a room is served, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RoomState {
    /// It is served.
    Complete,
    /// It is being copied or compared, or waits for that.
    Importing,
    /// The homeserver does not know its full state.
    Partial,
    /// It is blocked, or differs although it was copied again.
    NotServed,
}

impl RoomState {
    const ALL: [Self; 4] = [Self::Complete, Self::Importing, Self::Partial, Self::NotServed];

    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Importing => "importing",
            Self::Partial => "partial",
            Self::NotServed => "not_served",
        }
    }
}

/// How a mended event differed: the label of `backscroll_synapse_sweep_differences_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Difference {
    /// The history service lacked the event.
    Missing,
    /// The history service held an event that the homeserver does not hold.
    Superfluous,
    /// One of them held the event as an outlier, the other in the graph.
    Outlier,
    /// They held the event with different verdicts.
    Verdict,
    /// They held the event with different bytes.
    Bytes,
    /// The history service held a room that the homeserver does not hold.
    Room,
}

impl Difference {
    const ALL: [Self; 6] =
        [Self::Missing, Self::Superfluous, Self::Outlier, Self::Verdict, Self::Bytes, Self::Room];

    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Superfluous => "superfluous",
            Self::Outlier => "outlier",
            Self::Verdict => "verdict",
            Self::Bytes => "bytes",
            Self::Room => "room",
        }
    }
}

/// A place in a stream of the homeserver, written by one of its processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct StreamLabels {
    /// The name of the stream.
    pub(crate) stream: &'static str,
    /// The name of the process.
    pub(crate) instance: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabel {
    query: &'static str,
}

/// All metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    health: Health,
    positions: Family<StreamLabels, Gauge>,
    cursors: Family<StreamLabels, Gauge>,
    rows_behind: Gauge,
    events: Family<OutcomeLabel, Counter>,
    late_changes: Family<KindLabel, Counter>,
    rooms: Family<StateLabel, Gauge>,
    last_full_sweep: Gauge,
    differences: Family<KindLabel, Counter>,
    queries: Family<QueryLabel, Histogram>,
    database_errors: Counter,
}

/// A histogram from a millisecond to about a minute.
fn query_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.5, 13))
}

impl Metrics {
    /// Creates the metrics in a registry of their own, with all counts zero.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut all = Self {
            registry: Arc::default(),
            health: Health::default(),
            positions: Family::default(),
            cursors: Family::default(),
            rows_behind: Gauge::default(),
            events: Family::default(),
            late_changes: Family::default(),
            rooms: Family::default(),
            last_full_sweep: Gauge::default(),
            differences: Family::default(),
            queries: Family::new_with_constructor(query_histogram),
            database_errors: Counter::default(),
        };
        // Present from the start, so that the first one is visible as a change.
        for outcome in EventOutcome::ALL {
            all.events(outcome, 0);
        }
        for state in RoomState::ALL {
            all.rooms(state, 0);
        }
        for kind in Difference::ALL {
            all.difference(kind, 0);
        }
        let mut registry = Registry::default();
        all.register(&mut registry);
        registry.register_collector(Box::new(Lag(all.health.clone())));
        register_process(&mut registry, "backscroll_synapse_build", env!("CARGO_PKG_VERSION"));
        all.registry = Arc::new(registry);
        all
    }

    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        let help =
            "Position of a writer of the homeserver in a stream, as the homeserver reports it";
        to.register("backscroll_synapse_position", help, it.positions);
        let help = "Position up to which a stream of a writer was copied";
        to.register("backscroll_synapse_cursor", help, it.cursors);
        let help = "Number of positions of the event streams that were not copied yet";
        to.register("backscroll_synapse_rows_behind", help, it.rows_behind);
        let help = "Events that were sent to the history service, by what happened to them";
        to.register("backscroll_synapse_events", help, it.events);
        let help = "Late changes that the homeserver reported, by the name of the cache";
        to.register("backscroll_synapse_late_changes", help, it.late_changes);
        let help = "Number of rooms, by whether they are served";
        to.register("backscroll_synapse_rooms", help, it.rooms);
        let help =
            "Time at which the last sweep of all rooms ended, in seconds since 1970; 0 if none has";
        to.register("backscroll_synapse_sweep_last_full_seconds", help, it.last_full_sweep);
        let help = "Differences that comparing rooms has found, by kind";
        to.register("backscroll_synapse_sweep_differences", help, it.differences);
        let help = "Duration of queries of the database";
        to.register_with_unit("backscroll_synapse_query", help, Unit::Seconds, it.queries);
        let help = "Queries and connections of the database that failed";
        to.register("backscroll_synapse_database_errors", help, it.database_errors);
    }

    /// The registry, for `/metrics`.
    #[must_use]
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// The health, for probes.
    #[must_use]
    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Records that the role, the schema and the version of the database can be followed.
    pub(crate) fn schema_checked(&self) {
        self.health.schema_checked();
    }

    /// Records that everything was acknowledged that was visible at `began`. `not_ready` describes why
    /// the rooms are not complete yet; `None` if they are.
    pub(crate) fn tick_ended(&self, began: Instant, not_ready: Option<String>) {
        self.health.tick_ended(began, not_ready);
    }

    /// Sets the positions that the homeserver reports, and those that were copied. Of more than 64
    /// processes, the others are left out.
    pub(crate) fn positions(
        &self,
        positions: &BTreeMap<StreamLabels, i64>,
        cursors: &BTreeMap<StreamLabels, i64>,
    ) {
        for (family, values) in [(&self.positions, positions), (&self.cursors, cursors)] {
            // A writer may vanish.
            family.clear();
            for (labels, value) in values.iter().take(MAX_INSTANCES) {
                let _before = family.get_or_create(labels).set(*value);
            }
        }
        let behind = positions.iter().filter_map(|(labels, position)| {
            let cursor = cursors.get(labels)?;
            i64::try_from(position.abs_diff(*cursor)).ok()
        });
        self.rows_behind.set(behind.fold(0, i64::saturating_add));
    }

    /// Counts events.
    pub(crate) fn events(&self, outcome: EventOutcome, count: u64) {
        self.events.get_or_create(&OutcomeLabel { outcome: outcome.name() }).inc_by(count);
    }

    /// Counts events that were sent.
    pub(crate) fn sent(&self, events: &[Sent]) {
        for event in events {
            let outcome = match event.result {
                SendResult::Appended => EventOutcome::Appended,
                SendResult::Duplicate => EventOutcome::Duplicate,
                SendResult::Replaced => EventOutcome::Replaced,
                SendResult::Purged => EventOutcome::Purged,
                SendResult::Unreadable(_) => EventOutcome::Unreadable,
                SendResult::Refused(_) => EventOutcome::Refused,
            };
            self.events(outcome, 1);
        }
    }

    /// Counts late changes by the name of the cache.
    pub(crate) fn late_changes(&self, rows: &BTreeMap<&'static str, u64>) {
        for (kind, count) in rows {
            self.late_changes.get_or_create(&KindLabel { kind }).inc_by(*count);
        }
    }

    /// Sets the number of rooms in a state.
    pub(crate) fn rooms(&self, state: RoomState, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.rooms.get_or_create(&StateLabel { state: state.name() }).set(count);
    }

    /// Sets when the last full sweep ended, in seconds since 1970.
    pub(crate) fn swept(&self, ended: u64) {
        self.last_full_sweep.set(i64::try_from(ended).unwrap_or(i64::MAX));
    }

    /// Counts differences that were found.
    pub(crate) fn difference(&self, kind: Difference, count: u64) {
        self.differences.get_or_create(&KindLabel { kind: kind.name() }).inc_by(count);
    }

    /// Measures a query.
    pub(crate) fn query(&self, query: &'static str, duration: Duration) {
        self.queries.get_or_create(&QueryLabel { query }).observe(duration.as_secs_f64());
    }

    /// Counts a failure of the database.
    pub(crate) fn database_error(&self) {
        self.database_errors.inc();
    }
}

/// The lag at the moment when metrics are collected.
#[derive(Debug)]
struct Lag(Health);

impl Collector for Lag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Absent until a tick has ended: zero would be a lie.
        let Some(lag) = self.0.lag(Instant::now()) else { return Ok(()) };
        let gauge = ConstGauge::new(lag.as_secs_f64());
        let help = "Time since the beginning of the last tick of which everything was acknowledged";
        gauge.encode(encoder.encode_descriptor(
            "backscroll_synapse_lag_seconds",
            help,
            None,
            gauge.metric_type(),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use prometheus_client::encoding::prometheus_text;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &metrics.registry()).unwrap();
        text
    }

    #[tokio::test]
    async fn counts_are_present_from_the_start_and_the_lag_from_the_first_tick() {
        let metrics = Metrics::new();
        let before = text(&metrics);
        assert!(
            before.contains("backscroll_synapse_events_total{outcome=\"refused\"} 0"),
            "{before}"
        );
        assert!(before.contains("backscroll_synapse_rooms{state=\"importing\"} 0"), "{before}");
        assert!(!before.contains("backscroll_synapse_lag_seconds"), "{before}");
        metrics.tick_ended(Instant::now(), None);
        assert!(text(&metrics).contains("backscroll_synapse_lag_seconds "), "{}", text(&metrics));
    }

    /// Words of the dashboard and the alerts that are names of our metrics.
    #[tokio::test]
    async fn every_metric_of_dashboard_and_alerts_exists() {
        let metrics = Metrics::new();
        metrics.tick_ended(Instant::now(), None);
        metrics.query("an example", Duration::from_secs(1));
        let text = text(&metrics);
        let samples = text.lines().filter(|it| !it.starts_with('#'));
        let known: BTreeSet<&str> = samples.filter_map(|it| it.split(['{', ' ']).next()).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker/kubernetes/monitoring");
        let mut seen = 0;
        for file in ["rules.yaml", "dashboard.json"] {
            let content = fs::read_to_string(folder.join(file)).unwrap();
            let words = content.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
            for word in words.filter(|it| it.starts_with("backscroll_synapse_")) {
                assert!(known.contains(word), "{file}: {word} is not among {known:?}");
                seen += 1;
            }
        }
        assert!(seen > 10, "only {seen} names were found");
    }

    #[test]
    fn rows_behind_are_those_of_all_writers() {
        let at = |stream, instance: &str| StreamLabels { stream, instance: instance.to_owned() };
        let metrics = Metrics::new();
        let positions =
            [(at("events", "a"), 10), (at("events", "b"), 20), (at("backfill", "a"), -9)];
        let cursors = [(at("events", "a"), 8), (at("events", "b"), 20), (at("backfill", "a"), -4)];
        metrics.positions(&BTreeMap::from(positions), &BTreeMap::from(cursors));
        let text = text(&metrics);
        assert!(text.contains("backscroll_synapse_rows_behind 7"), "{text}");
        let line = "backscroll_synapse_position{stream=\"backfill\",instance=\"a\"} -9";
        assert!(text.contains(line), "{text}");
    }
}
