//! What the gateway counts and measures, and under which names: the one place that knows them.
//! Labels are words of this program's, never of a caller's, so there are few of them.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
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
use tonic::Code;

use crate::limiter;

/// All that is counted. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<EndpointLabel, Histogram>,
    in_flight: Gauge,
    events: Family<EndpointLabel, Counter>,
    limited: Family<LimiterLabel, Counter>,
    shares: Family<LimiterLabel, Gauge>,
    share_bytes: Family<LimiterLabel, Gauge>,
    calls: Family<CallLabels, Counter>,
    call_durations: Family<MethodLabels, Histogram>,
    panics: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    status: u16,
    errcode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimiterLabel {
    limiter: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
}

/// From half a millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.5, 13))
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
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            events: Family::default(),
            limited: Family::default(),
            shares: Family::default(),
            share_bytes: Family::default(),
            calls: Family::default(),
            call_durations: Family::new_with_constructor(seconds),
            panics: Counter::default(),
        };
        // There from the start, so that the first refusal is seen as a change.
        for limiter in limiter::NAMES {
            drop(all.limited.get_or_create(&LimiterLabel { limiter }));
        }
        let mut registry = Registry::default();
        all.register(&mut registry);
        let version = env!("CARGO_PKG_VERSION");
        register_process(&mut registry, "backscroll_gateway_build", version);
        all.registry = Arc::new(registry);
        all
    }

    fn register(&self, to: &mut Registry) {
        let it = self.clone();
        let help = "Requests answered, by endpoint, status, and errcode if refused";
        to.register("backscroll_gateway_http_requests", help, it.requests);
        let help = "From the head of a request to the head of its answer";
        let name = "backscroll_gateway_http_request";
        to.register_with_unit(name, help, Unit::Seconds, it.durations);
        let help = "Requests being answered now";
        to.register("backscroll_gateway_in_flight", help, it.in_flight);
        to.register("backscroll_gateway_events", "Events answered", it.events);
        let help = "Requests and connections refused for the sake of others, by the bound they met";
        to.register("backscroll_gateway_limited", help, it.limited);
        let help = "What of a bounded kind there is now, by the bound";
        to.register("backscroll_gateway_shares", help, it.shares);
        let help = "How many bytes of memory that takes";
        to.register("backscroll_gateway_share_bytes", help, it.share_bytes);
        let help = "Calls to the history service that ended, by their status code";
        to.register("grpc_client_handled", help, it.calls);
        let help = "From a call to the history service to its answer";
        to.register_with_unit("grpc_client_handling", help, Unit::Seconds, it.call_durations);
        let help = "Requests that failed in a way that should not be possible";
        to.register("backscroll_gateway_panics", help, it.panics);
    }

    /// What `/metrics` shows.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// Counts a request that has been received, until the result is dropped.
    pub(crate) fn request_started(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a response. `errcode` is `None` if it is not an error.
    pub(crate) fn request_answered(
        &self,
        endpoint: &'static str,
        status: StatusCode,
        errcode: Option<&'static str>,
        after: Duration,
    ) {
        let status = status.as_u16();
        let errcode = errcode.unwrap_or_default();
        self.requests.get_or_create(&RequestLabels { endpoint, status, errcode }).inc();
        self.durations.get_or_create(&EndpointLabel { endpoint }).observe(after.as_secs_f64());
    }

    /// Events were answered.
    pub(crate) fn events(&self, endpoint: &'static str, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.events.get_or_create(&EndpointLabel { endpoint }).inc_by(events);
    }

    /// A request, or a connection, met a bound.
    pub(crate) fn limited(&self, limiter: &'static str) {
        self.limited.get_or_create(&LimiterLabel { limiter }).inc();
    }

    /// The gauges of a limited resource.
    pub(crate) fn share_gauges(&self, limiter: &'static str) -> ShareGauges {
        let label = LimiterLabel { limiter };
        ShareGauges {
            count: self.shares.get_or_create(&label).clone(),
            bytes: self.share_bytes.get_or_create(&label).clone(),
        }
    }

    /// A call to the history service ended.
    pub(crate) fn called(
        &self,
        grpc_service: &'static str,
        grpc_method: &'static str,
        code: Code,
        after: Duration,
    ) {
        let grpc_code = backscroll_telemetry::code_name(code.into());
        self.calls.get_or_create(&CallLabels { grpc_service, grpc_method, grpc_code }).inc();
        let method = MethodLabels { grpc_service, grpc_method };
        self.call_durations.get_or_create(&method).observe(after.as_secs_f64());
    }

    /// A handler panicked.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }
}

/// How many shares of a limited resource there are, and how many bytes.
#[derive(Clone, Debug)]
pub(crate) struct ShareGauges {
    pub(crate) count: Gauge,
    pub(crate) bytes: Gauge,
}

/// Counts a request as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
