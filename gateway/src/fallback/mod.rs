//! Passes requests on to the homeserver, which answers what the history service cannot.
//!
//! ```text
//!  a request ──► rules            why the homeserver answers it, if it does
//!            ──► request          its head, as the homeserver gets it
//!            ──► homeserver ══HTTP══► the homeserver
//!            ◄── response         its answer, while it is received
//! ```
//!
//! The homeserver gets the target, the body and the `Authorization` header as they came, so that it can
//! verify the signature itself. How many requests it gets at the same time is in `limits`.

mod first_of_origin;
mod homeserver;
mod options;
mod request;
mod response;
mod rules;

use std::{sync::Arc, time::Duration};

use self::first_of_origin::FirstOfOrigin;
pub use self::options::{FallbackFlags, FallbackOptions};
pub(crate) use self::{
    homeserver::{Homeserver, HomeserverError},
    request::{ForwardedHead, ForwardedRequest, X_BACKSCROLL},
    response::passed_on,
    rules::{FallbackReason, reason_of},
};
use crate::{
    clock::Clock, metrics::FallbackMetrics, proto::v1::FeederBounds, server_name::ServerName,
};

/// The homeserver, and when it is asked.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) homeserver: Arc<Homeserver>,
    pub(crate) metrics: FallbackMetrics,
    /// How long the history service may take for an answer.
    pub(crate) history_time: Duration,
    /// What the history service is told about how current answers must be.
    pub(crate) bounds: FeederBounds,
    /// Whether other federation endpoints are passed through.
    pub(crate) passes_through: bool,
    /// `None`: the first request of an origin is a request like any other.
    first_of_origin: Option<FirstOfOrigin>,
}

impl Fallback {
    pub(crate) fn new(options: FallbackOptions, clock: Clock, metrics: FallbackMetrics) -> Self {
        metrics.prepare(&FallbackReason::WORDS, &HomeserverError::CAUSES);
        let proto = |span: Duration| prost_types::Duration {
            seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
        };
        Self {
            homeserver: Arc::new(Homeserver::new(&options.url, options.tls)),
            metrics,
            history_time: options.history_time,
            bounds: FeederBounds {
                max_lag: Some(proto(options.max_lag)),
                max_wait: Some(proto(options.max_wait)),
            },
            passes_through: options.pass_through,
            first_of_origin: options.first_of_origin.then(|| FirstOfOrigin::new(clock)),
        }
    }

    /// Whether this is the first request of an authenticated server in a minute. Then none of the next
    /// minute is.
    pub(crate) fn is_first_of(&self, origin: &ServerName) -> bool {
        self.first_of_origin.as_ref().is_some_and(|first| first.note(origin))
    }
}
