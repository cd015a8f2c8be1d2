//! The metrics of the history service, and their names. The values of labels are words of this
//! program, never of a caller, so there are few of them.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use backscroll_telemetry::register_process;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// All metrics. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    started: Family<Method, Counter>,
    handled: Family<HandledLabels, Counter>,
    handling: Family<Method, Histogram>,
    walk_nodes: Family<QuestionLabel, Histogram>,
    walks_ended: Family<ReasonLabel, Counter>,
    served: Family<FormLabel, Counter>,
    questions_refused: Family<ReasonLabel, Counter>,
    appended: Family<OutcomeLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    flushes: Histogram,
    panics: Counter,
    backlog: Gauge,
    redacted_content_removed: Counter,
    requests_waiting: Gauge,
    bounded_requests: Family<OutcomeLabel, Counter>,
    tick_waits: Histogram,
    feeder: FeederGauges,
    rooms_not_served: Family<ReasonLabel, Gauge>,
    store: StoreGauges,
    database: DatabaseCounters,
}

/// Counters of the database that keeps the store; they stay 0 if the store is on this machine.
#[derive(Clone, Debug, Default)]
pub struct DatabaseCounters {
    /// The number of round trips.
    pub round_trips: Counter,
    /// The number of connections that were lost while the database was asked.
    pub lost_connections: Counter,
    /// The number of commits that another process came before.
    pub conflicts: Counter,
    /// The number of commits whose answer was lost.
    pub unclear_commits: Counter,
}

/// Gauges of the feeder; set from time to time.
#[derive(Clone, Debug, Default)]
pub struct FeederGauges {
    /// 1 while there is a feeder.
    pub present: Gauge,
    /// 1 while the feeder reports that it is ready.
    pub ready: Gauge,
    /// The seconds since the beginning of the last tick that has ended.
    pub lag_seconds: Gauge<f64, AtomicU64>,
}

/// Gauges of the whole store; set from time to time.
#[derive(Clone, Debug, Default)]
pub struct StoreGauges {
    /// The number of rooms.
    pub rooms: Gauge,
    /// The number of events that were ever appended.
    pub events: Gauge,
    /// The number of forward extremities of all rooms.
    pub forward_extremities: Gauge,
    /// The number of forward extremities of the room that has the most.
    pub widest: Gauge,
    /// The number of references to events that are not in the graph.
    pub gaps: Gauge,
    /// The number of events whose state waits for the state of another event.
    pub waiting: Gauge,
    /// The number of unreadable events.
    pub unreadable: Gauge,
    /// The number of rooms whose current state is not known.
    pub state_unknown: Gauge,
    /// The number of redacted events whose content is still on disk.
    pub content_due: Gauge,
    /// The bytes that the store takes on disk.
    pub store_bytes: Gauge,
    /// The bytes that are free on the volume of the store.
    pub free_bytes: Gauge,
    /// 1 while no events are accepted because the volume is full.
    pub disk_full: Gauge,
    /// 1 if each write to the store is durable when it returns.
    pub writes_durable: Gauge,
    /// The servers that copy the database of the store.
    pub standbys: Gauge,
    /// 1 while servers copy the database of the store and no commit waits for them.
    pub standbys_may_lag: Gauge,
}

/// A method of a service, by its full names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// The service, such as `backscroll.history.v1.HistoryService`.
    pub grpc_service: String,
    /// The method of the service, such as `Backfill`.
    pub grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuestionLabel {
    question: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FormLabel {
    form: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Counts a request as waiting until it is dropped.
#[derive(Debug)]
pub struct WaitingRequest(Gauge);

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A histogram of times, with buckets from a tenth of a millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.5, 15))
}

/// A histogram of looked up events, with buckets from 1 to 2,048. The greatest budget of a walk is
/// 1,400.
fn nodes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 12))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics without any counts.
    #[must_use]
    pub fn new() -> Self {
        let mut all = Self {
            registry: Arc::default(),
            started: Family::default(),
            handled: Family::default(),
            handling: Family::new_with_constructor(seconds),
            walk_nodes: Family::new_with_constructor(nodes),
            walks_ended: Family::default(),
            served: Family::default(),
            questions_refused: Family::default(),
            appended: Family::default(),
            refused: Family::default(),
            flushes: seconds(),
            panics: Counter::default(),
            backlog: Gauge::default(),
            redacted_content_removed: Counter::default(),
            requests_waiting: Gauge::default(),
            bounded_requests: Family::default(),
            tick_waits: seconds(),
            feeder: FeederGauges::default(),
            rooms_not_served: Family::default(),
            store: StoreGauges::default(),
            database: DatabaseCounters::default(),
        };
        let mut registry = Registry::default();
        all.register(&mut registry);
        all.register_feeder(&mut registry);
        all.store.register(&mut registry);
        all.database.register(&mut registry);
        register_process(&mut registry, "backscroll_build", env!("CARGO_PKG_VERSION"));
        all.registry = Arc::new(registry);
        all
    }

    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        to.register("grpc_server_started", "Calls begun", it.started);
        to.register("grpc_server_handled", "Calls ended, by their status code", it.handled);
        let help = "Time from the start of a call to the end of its response; streams as long as they last";
        to.register_with_unit("grpc_server_handling", help, Unit::Seconds, it.handling);
        to.register("backscroll_walk_nodes", "Events that a walk looked up", it.walk_nodes);
        let help = "Walks, by the reason why they ended: exhausted, limit, budget, size";
        to.register("backscroll_walks_ended", help, it.walks_ended);
        let help = "Events served to other servers and internal callers: full, redacted";
        to.register("backscroll_events_served", help, it.served);
        let help = "Questions of servers that may not ask, by reason";
        to.register("backscroll_questions_refused", help, it.questions_refused);
        let help = "Events accepted and on disk: new, duplicate, redacted (its content hash was wrong), \
             unreadable, state (held before, its state was given now)";
        to.register("backscroll_events_appended", help, it.appended);
        let help = "Events that were refused, by reason";
        to.register("backscroll_events_refused", help, it.refused);
        let help = "Time that writers waited until their writes were on disk";
        to.register_with_unit("backscroll_flush", help, Unit::Seconds, it.flushes);
        let help = "Requests that panicked";
        to.register("backscroll_panics", help, it.panics);
        let help = "Rooms that have states left to compute";
        to.register("backscroll_backlog_rooms", help, it.backlog);
        let help = "Redacted events whose content was removed from the disk";
        to.register("backscroll_redacted_content_removed", help, it.redacted_content_removed);
        let help =
            "Requests that wait until others have ended; beyond 1,024 they are refused (BUSY)";
        to.register("backscroll_requests_waiting", help, it.requests_waiting);
    }

    fn register_feeder(&self, to: &mut Registry) {
        let it = self.clone();
        let help = "Requests with bounds for the feeder, by what became of them: positive, final and \
                    not_final (negative answers), not_served, away, not_ready, behind";
        to.register("backscroll_bounded_requests", help, it.bounded_requests);
        let help = "Time that negative answers waited for the next tick of the feeder";
        to.register("backscroll_tick_wait_seconds", help, it.tick_waits);
        let help = "1 while there is a feeder";
        to.register("backscroll_feeder_present", help, it.feeder.present);
        let help = "1 while the feeder reports that the rooms that are served are complete";
        to.register("backscroll_feeder_ready", help, it.feeder.ready);
        let help = "Time since the beginning of the last tick of a feeder that has ended; 0 if there \
                    was no feeder since the start";
        to.register("backscroll_feeder_lag_seconds", help, it.feeder.lag_seconds);
        let help = "Rooms that are not served to other servers, by reason";
        to.register("backscroll_rooms_not_served", help, it.rooms_not_served);
    }

    /// The counters of the database that keeps the store.
    #[must_use]
    pub fn database(&self) -> &DatabaseCounters {
        &self.database
    }

    /// The gauges of the feeder.
    #[must_use]
    pub fn feeder(&self) -> &FeederGauges {
        &self.feeder
    }

    /// Sets the number of rooms that are not served for a reason.
    pub fn rooms_not_served(&self, reason: &'static str, rooms: u64) {
        let rooms = i64::try_from(rooms).unwrap_or(i64::MAX);
        self.rooms_not_served.get_or_create(&ReasonLabel { reason }).set(rooms);
    }

    /// Counts a request with bounds for the feeder.
    pub fn bounded_request(&self, outcome: &'static str) {
        self.bounded_requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a negative answer that waited for the next tick, and the time that it waited.
    pub fn waited_for_tick(&self, time: Duration) {
        self.tick_waits.observe(time.as_secs_f64());
    }

    /// The registry that `/metrics` shows.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// The gauges of the whole store.
    #[must_use]
    pub fn store(&self) -> &StoreGauges {
        &self.store
    }

    /// Counts the start of a call.
    pub fn started(&self, method: &Method) {
        self.started.get_or_create(method).inc();
    }

    /// Counts the end of a call, and the time that it took.
    pub fn handled(&self, method: &Method, grpc_code: &'static str, took: Duration) {
        let Method { grpc_service, grpc_method } = method.clone();
        self.handled.get_or_create(&HandledLabels { grpc_service, grpc_method, grpc_code }).inc();
        self.handling.get_or_create(method).observe(took.as_secs_f64());
    }

    /// Counts a request as waiting until the result is dropped.
    #[must_use]
    pub fn request_waiting(&self) -> WaitingRequest {
        self.requests_waiting.inc();
        WaitingRequest(self.requests_waiting.clone())
    }

    /// Counts an answer that a walk found: how many events it looked up, and why it ended.
    pub fn walked(&self, question: &'static str, visited: u32, end: &'static str) {
        self.walk_nodes.get_or_create(&QuestionLabel { question }).observe(visited.into());
        self.walks_ended.get_or_create(&ReasonLabel { reason: end }).inc();
    }

    /// Counts events that were served in a form.
    pub fn served(&self, form: &'static str, events: usize) {
        let events = u64::try_from(events).expect("a usize fits 64 bits");
        self.served.get_or_create(&FormLabel { form }).inc_by(events);
    }

    /// Counts a question of a server that may not ask.
    pub fn question_refused(&self, reason: &'static str) {
        self.questions_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an event that was accepted and is on disk.
    pub fn appended(&self, outcome: &'static str) {
        self.appended.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts an event that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a flush, and the time that a writer waited for it.
    pub fn flushed(&self, took: Duration) {
        self.flushes.observe(took.as_secs_f64());
    }

    /// Counts a request that panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts redacted events whose content was removed from the disk.
    pub fn content_removed(&self, events: u64) {
        self.redacted_content_removed.inc_by(events);
    }

    /// Sets the number of rooms that have states left to compute.
    pub fn backlog(&self, rooms: usize) {
        self.backlog.set(i64::try_from(rooms).expect("a length fits an i64"));
    }
}

impl DatabaseCounters {
    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        let help = "Round trips to the PostgreSQL database of the store";
        to.register("backscroll_database_round_trips", help, it.round_trips);
        let help = "Connections to the PostgreSQL database that were lost while it was asked";
        to.register("backscroll_database_lost_connections", help, it.lost_connections);
        let help = "Commits that were made again, because another process had changed the room";
        to.register("backscroll_database_conflicts", help, it.conflicts);
        let help = "Commits whose answer was lost; whether they were applied was found out";
        to.register("backscroll_database_unclear_commits", help, it.unclear_commits);
    }
}

impl StoreGauges {
    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        to.register("backscroll_rooms", "Rooms held", it.rooms);
        to.register("backscroll_events", "Events ever appended, outliers included", it.events);
        let help = "Forward extremities of all rooms";
        to.register("backscroll_forward_extremities", help, it.forward_extremities);
        let help = "Forward extremities of the room that has most of them";
        to.register("backscroll_widest_room_extremities", help, it.widest);
        let help = "References to events that are not in the graph";
        to.register("backscroll_gaps", help, it.gaps);
        let help = "Events whose state waits for that of a predecessor";
        to.register("backscroll_events_waiting_for_state", help, it.waiting);
        let help = "Events held that break the format of their room version";
        to.register("backscroll_unreadable_events", help, it.unreadable);
        let help =
            "Rooms whose current state is not known: access is decided by the states known last";
        to.register("backscroll_rooms_of_unknown_state", help, it.state_unknown);
        let help = "Redacted events whose content is still on disk";
        to.register("backscroll_redacted_content", help, it.content_due);
        to.register("backscroll_store_bytes", "Size of the store on disk", it.store_bytes);
        let help = "Free space on the volume of the store";
        to.register("backscroll_volume_free_bytes", help, it.free_bytes);
        let help = "1 while no events are accepted because the volume is full";
        to.register("backscroll_disk_full", help, it.disk_full);
        let help = "1 where the file system makes each write of the store durable before it \
                    returns, 0 where only each acknowledgement is";
        to.register("backscroll_writes_durable", help, it.writes_durable);
        let help = "Servers that copy the PostgreSQL database of the store";
        to.register("backscroll_standbys", help, it.standbys);
        let help = "1 while servers copy the PostgreSQL database and no commit waits for them: if \
                    one takes over, acknowledged events are lost";
        to.register("backscroll_standbys_may_lag", help, it.standbys_may_lag);
    }
}
