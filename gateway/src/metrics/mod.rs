//! The metrics of the gateway, and their names. Labels have values of the program only, never of requests,
//! so their number is limited.

mod fallback;
mod shadow;

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

pub(crate) use self::{fallback::FallbackMetrics, shadow::ShadowMetrics};
use crate::limiter;

/// All metrics. Clones share them.
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
    fallback: FallbackMetrics,
    shadow: ShadowMetrics,
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

/// A histogram from half a millisecond to about half a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.5, 13))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates the metrics in a registry of their own, with all counts zero.
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
            fallback: FallbackMetrics::new(),
            shadow: ShadowMetrics::default(),
        };
        // Present from the start, so that the first refusal is visible as a change.
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
        let help = "Responses by endpoint, status, and errcode of errors";
        to.register("backscroll_gateway_http_requests", help, it.requests);
        let help = "Time from the head of a request to the head of its response";
        let name = "backscroll_gateway_http_request";
        to.register_with_unit(name, help, Unit::Seconds, it.durations);
        let help = "Requests that are being answered";
        to.register("backscroll_gateway_in_flight", help, it.in_flight);
        to.register("backscroll_gateway_events", "Events in responses", it.events);
        let help = "Refused requests, and evicted requests and connections, by limit";
        to.register("backscroll_gateway_limited", help, it.limited);
        let help = "Current number of limited resources in use, by limit";
        to.register("backscroll_gateway_shares", help, it.shares);
        let help = "Memory of limited resources in use, in bytes";
        to.register("backscroll_gateway_share_bytes", help, it.share_bytes);
        let help = "Completed calls to the history service, by status code";
        to.register("grpc_client_handled", help, it.calls);
        let help = "Duration of calls to the history service";
        to.register_with_unit("grpc_client_handling", help, Unit::Seconds, it.call_durations);
        let help = "Requests whose handler panicked";
        to.register("backscroll_gateway_panics", help, it.panics);
        self.fallback.register(to);
        self.shadow.register(to);
    }

    /// The registry, for `/metrics`.
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

    /// Counts events in a response.
    pub(crate) fn events(&self, endpoint: &'static str, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.events.get_or_create(&EndpointLabel { endpoint }).inc_by(events);
    }

    /// Counts a refusal or an eviction.
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

    /// Counts a completed call to the history service.
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

    /// The metrics of what is passed on to the homeserver.
    pub(crate) fn fallback(&self) -> FallbackMetrics {
        self.fallback.clone()
    }

    /// The metrics of comparisons with the homeserver.
    pub(crate) fn shadow(&self) -> ShadowMetrics {
        self.shadow.clone()
    }

    /// Counts a handler that panicked.
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
