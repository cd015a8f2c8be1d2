//! What the history service counts and measures, and under which names: the one place that knows
//! them. Labels are words of this program's, never of a caller's, so there are few of them.

use std::{sync::Arc, time::Duration};

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

/// All that is counted. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    handling: Family<Method, Histogram>,
    walk_nodes: Family<Question, Histogram>,
    walks_ended: Family<Reason, Counter>,
    served: Family<Form, Counter>,
    questions_refused: Family<Reason, Counter>,
    appended: Family<Outcome, Counter>,
    refused: Family<Reason, Counter>,
    flushes: Histogram,
    panics: Counter,
    backlog: Gauge,
    totals: Totals,
}

/// What is known of the whole store; set from time to time.
#[derive(Clone, Debug, Default)]
struct Totals {
    rooms: Gauge,
    events: Gauge,
    forward_extremities: Gauge,
    widest: Gauge,
    gaps: Gauge,
    waiting: Gauge,
    unreadable: Gauge,
    state_unknown: Gauge,
    store_bytes: Gauge,
    free_bytes: Gauge,
    disk_full: Gauge,
    writes_durable: Gauge,
}

/// A method of a service, by its full names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// Such as `backscroll.history.v1.HistoryService`.
    pub grpc_service: String,
    /// Such as `Backfill`.
    pub grpc_method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Question {
    question: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Form {
    form: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Sizes of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Rooms held.
    pub rooms: u64,
    /// Events held.
    pub events: u64,
    /// Forward extremities of all rooms.
    pub forward_extremities: u64,
    /// Those of the room that has most.
    pub widest: u64,
    /// References to events that are not placed.
    pub gaps: u64,
    /// Events whose state waits for that of another.
    pub waiting: u64,
    /// Events that cannot be read.
    pub unreadable: u64,
    /// Rooms whose current state is not known.
    pub state_unknown: u64,
    /// Bytes on disk.
    pub store_bytes: u64,
    /// Bytes free on the volume.
    pub free_bytes: u64,
}

/// From a tenth of a millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.5, 15))
}

/// From one to the most that a walk looks at.
fn nodes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 12))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
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
            totals: Totals::default(),
        };
        let mut registry = Registry::default();
        all.register(&mut registry);
        all.totals.register(&mut registry);
        register_process(&mut registry, "backscroll_build", env!("CARGO_PKG_VERSION"));
        all.registry = Arc::new(registry);
        all
    }

    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        to.register("grpc_server_started", "Calls begun", it.started);
        to.register("grpc_server_handled", "Calls ended, by their status code", it.handled);
        let help = "From the head of a call to the end of its answer; streams as long as they last";
        to.register_with_unit("grpc_server_handling", help, Unit::Seconds, it.handling);
        to.register("backscroll_walk_nodes", "Events that a walk looked at", it.walk_nodes);
        let help = "Walks, by why they ended: exhausted, limit, budget, size";
        to.register("backscroll_walks_ended", help, it.walks_ended);
        let help = "Events answered to other servers and sister services: full, redacted";
        to.register("backscroll_events_served", help, it.served);
        let help = "Questions of servers that may not ask, by why not";
        to.register("backscroll_questions_refused", help, it.questions_refused);
        let help = "Events taken and on disk: new, duplicate, redacted (its content hash was wrong), \
             unreadable, state (held before, its state came now)";
        to.register("backscroll_events_appended", help, it.appended);
        let help = "Events that were not taken, by why not";
        to.register("backscroll_events_refused", help, it.refused);
        let help = "How long writers waited until what they wrote was on disk";
        to.register_with_unit("backscroll_flush", help, Unit::Seconds, it.flushes);
        let help = "Calls that failed in a way that should not be possible";
        to.register("backscroll_panics", help, it.panics);
        let help = "Rooms in which states that can be known are still being worked out";
        to.register("backscroll_backlog_rooms", help, it.backlog);
    }

    /// What `/metrics` shows.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// A call began.
    pub fn started(&self, method: &Method) {
        self.started.get_or_create(method).inc();
    }

    /// A call ended.
    pub fn handled(&self, method: &Method, grpc_code: &'static str, after: Duration) {
        let Method { grpc_service, grpc_method } = method.clone();
        self.handled.get_or_create(&Handled { grpc_service, grpc_method, grpc_code }).inc();
        self.handling.get_or_create(method).observe(after.as_secs_f64());
    }

    /// A walk was answered.
    pub fn walked(&self, question: &'static str, visited: u32, end: &'static str) {
        self.walk_nodes.get_or_create(&Question { question }).observe(visited.into());
        self.walks_ended.get_or_create(&Reason { reason: end }).inc();
    }

    /// Events were answered, in a form.
    pub fn served(&self, form: &'static str, events: u64) {
        self.served.get_or_create(&Form { form }).inc_by(events);
    }

    /// A server may not ask.
    pub fn question_refused(&self, reason: &'static str) {
        self.questions_refused.get_or_create(&Reason { reason }).inc();
    }

    /// An event was taken.
    pub fn appended(&self, outcome: &'static str) {
        self.appended.get_or_create(&Outcome { outcome }).inc();
    }

    /// An event was not taken.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A writer waited for the disk.
    pub fn flushed(&self, after: Duration) {
        self.flushes.observe(after.as_secs_f64());
    }

    /// A call panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// In so many rooms something is left to work out.
    pub fn backlog(&self, rooms: usize) {
        self.backlog.set(i64::try_from(rooms).unwrap_or(i64::MAX));
    }

    /// Whether events are not taken for want of space.
    pub fn disk_full(&self, is: bool) {
        self.totals.disk_full.set(is.into());
    }

    /// Whether each write to the store is durable when it returns.
    pub fn writes_durable(&self, is: bool) {
        self.totals.writes_durable.set(is.into());
    }

    /// The whole store was measured.
    pub fn measured(&self, sizes: Sizes) {
        let Sizes { rooms, events, forward_extremities, widest, .. } = sizes;
        let Sizes { gaps, waiting, store_bytes, free_bytes, .. } = sizes;
        let Sizes { unreadable, state_unknown, .. } = sizes;
        let it = &self.totals;
        for (gauge, value) in [
            (&it.rooms, rooms),
            (&it.events, events),
            (&it.forward_extremities, forward_extremities),
            (&it.widest, widest),
            (&it.gaps, gaps),
            (&it.waiting, waiting),
            (&it.unreadable, unreadable),
            (&it.state_unknown, state_unknown),
            (&it.store_bytes, store_bytes),
            (&it.free_bytes, free_bytes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

impl Totals {
    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        to.register("backscroll_rooms", "Rooms held", it.rooms);
        to.register("backscroll_events", "Events held, outliers included", it.events);
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
        let help = "Rooms whose current state is not known, so that who may ask is decided by what \
                    was known last";
        to.register("backscroll_rooms_of_unknown_state", help, it.state_unknown);
        to.register("backscroll_store_bytes", "Size of the store on disk", it.store_bytes);
        let help = "Space left on the volume of the store";
        to.register("backscroll_volume_free_bytes", help, it.free_bytes);
        let help = "1 while no events are taken for want of space";
        to.register("backscroll_disk_full", help, it.disk_full);
        let help = "1 where the file system makes each write of the store durable before it \
                    returns, 0 where only each acknowledgement is";
        to.register("backscroll_writes_durable", help, it.writes_durable);
    }
}
