//! The metrics of what is passed on to the homeserver, and of the feeder that fills the history service.

use std::{sync::atomic::AtomicU64, time::Duration};

use axum::http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{InFlight, seconds};

/// The metrics of what is passed on to the homeserver. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct FallbackMetrics {
    requests: Family<ReasonLabel, Counter>,
    durations: Family<ReasonLabel, Histogram>,
    in_flight: Gauge,
    failures: Family<CauseLabel, Counter>,
    passed_through: Family<StatusLabel, Counter>,
    feeder_ready: Gauge,
    feeder_lag: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

impl FallbackMetrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            failures: Family::default(),
            passed_through: Family::default(),
            feeder_ready: Gauge::default(),
            feeder_lag: Gauge::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let it = self.clone();
        let help = "Requests that were passed on to the homeserver, by reason";
        to.register("backscroll_gateway_fallback", help, it.requests);
        let help = "Time until the head of the homeserver's response, by reason";
        let name = "backscroll_gateway_fallback_answer";
        to.register_with_unit(name, help, Unit::Seconds, it.durations);
        let help =
            "Requests that the homeserver is answering, those that are passed through included";
        to.register("backscroll_gateway_fallback_in_flight", help, it.in_flight);
        let help = "Requests for the homeserver that it did not answer, by cause";
        to.register("backscroll_gateway_fallback_failures", help, it.failures);
        let help = "Responses of endpoints that are passed through, by status";
        to.register("backscroll_gateway_passed_through", help, it.passed_through);
        let help = "1 if the history service has a feeder that is ready, else 0";
        to.register("backscroll_gateway_feeder_ready", help, it.feeder_ready);
        let help = "How far the feeder is behind the homeserver; NaN if that is not known";
        let name = "backscroll_gateway_feeder_lag";
        to.register_with_unit(name, help, Unit::Seconds, it.feeder_lag);
    }

    /// Creates the counters of these reasons and causes, so that the first one is visible as a change.
    pub(crate) fn prepare(&self, reasons: &[&'static str], causes: &[&'static str]) {
        for reason in reasons {
            drop(self.requests.get_or_create(&ReasonLabel { reason }));
        }
        for cause in causes {
            drop(self.failures.get_or_create(&CauseLabel { cause }));
        }
        self.feeder(false, None);
    }

    /// Counts a request that is being passed on, until the result is dropped.
    pub(crate) fn started(&self, reason: &'static str) -> InFlight {
        self.requests.get_or_create(&ReasonLabel { reason }).inc();
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts the head of a response of the homeserver.
    pub(crate) fn answered(&self, reason: &'static str, after: Duration) {
        self.durations.get_or_create(&ReasonLabel { reason }).observe(after.as_secs_f64());
    }

    /// Counts a request that the homeserver did not answer.
    pub(crate) fn failed(&self, cause: &'static str) {
        self.failures.get_or_create(&CauseLabel { cause }).inc();
    }

    /// Counts a response of an endpoint that is passed through.
    pub(crate) fn passed_through(&self, status: StatusCode) {
        self.passed_through.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
    }

    /// Sets what is known of the feeder. `None` if its lag is not known.
    pub(crate) fn feeder(&self, is_ready: bool, lag: Option<Duration>) {
        self.feeder_ready.set(i64::from(is_ready));
        self.feeder_lag.set(lag.map_or(f64::NAN, |lag| lag.as_secs_f64()));
    }
}
