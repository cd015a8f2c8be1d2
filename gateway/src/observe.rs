//! Observes every request: logs one line (a sample of them for refusals with 429), counts it, joins its
//! trace, and turns a panic of a handler into a 500. Handlers add fields to the current span.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use backscroll_telemetry::trace::Trace;
use futures_util::FutureExt as _;
use tracing::{Instrument as _, Span, field, info_span};

use crate::{
    error::{ApiError, ErrorLog},
    log_sampler::LogSampler,
    metrics::Metrics,
    server_name::ServerName,
};

/// The state of the middleware.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observer {
    metrics: Metrics,
    /// Limits the log lines about requests that were refused with 429.
    refusals: Arc<LogSampler>,
}

impl From<Metrics> for Observer {
    fn from(metrics: Metrics) -> Self {
        Self { metrics, refusals: Arc::default() }
    }
}

/// The middleware: logs, counts and traces every request.
pub(crate) async fn observe(
    State(Observer { metrics, refusals }): State<Observer>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let in_flight = metrics.request_started();
    let endpoint = endpoint_of(&request);
    let trace = Trace::of(request.headers());
    let span = trace.scope(|| {
        info_span!(
            "request",
            method = ?request.method(),
            trace = field::Empty,
            endpoint = field::Empty,
            origin = field::Empty,
            room = field::Empty,
            events = field::Empty,
            answered_by = field::Empty,
            fallback_reason = field::Empty,
        )
    });
    if let Some(id) = trace.id() {
        span.record("trace", id);
    }
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    // No state outlives a request, so a panic leaves none half changed.
    let response = trace.carry(answering).await.unwrap_or_else(|_panic| {
        metrics.panicked();
        ApiError::panicked().into_response()
    });
    drop(in_flight);
    let endpoint = response.extensions().get().map_or(endpoint, |EndpointName(name)| *name);
    let refusal = response.extensions().get::<ErrorLog>();
    if let Some(limiter) = refusal.and_then(|it| it.limiter) {
        metrics.limited(limiter);
    }
    let errcode = refusal.map(|it| it.errcode);
    metrics.request_answered(endpoint, response.status(), errcode, started.elapsed());
    if let Some(EventCount(events)) = response.extensions().get() {
        metrics.events(endpoint, *events);
    }
    span.in_scope(|| log(&response, &refusals, started));
    response
}

/// The name of the endpoint in metrics: one of six, whatever the path.
fn endpoint_of(request: &Request) -> &'static str {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    ["backfill", "get_missing_events", "healthz", "readyz"]
        .into_iter()
        .find(|name| path.split('/').any(|part| part == *name))
        .unwrap_or("other")
}

fn log(response: &Response, refusals: &LogSampler, started: Instant) {
    let status = response.status().as_u16();
    // As `u64`: tracing logs wider integers as text.
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if response.extensions().get::<Quiet>().is_some() {
        tracing::debug!(status, ms, "answered a probe");
        return;
    }
    let Some(refusal) = response.extensions().get::<ErrorLog>() else {
        tracing::info!(status, ms, "answered");
        return;
    };
    let ErrorLog { errcode, message, limiter, detail } = refusal;
    let detail = detail.as_deref();
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(status, ms, errcode, limiter, detail, "{message}");
    } else if response.status().is_server_error() {
        tracing::warn!(status, ms, errcode, limiter, detail, "{message}");
    } else if limiter.is_none() {
        tracing::info!(status, ms, errcode, detail, "{message}");
    } else if let Some(left_out) = refusals.sample() {
        tracing::info!(status, ms, errcode, limiter, left_out, detail, "{message}");
    }
}

/// Marks responses to probes, which are logged at debug level only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet;

/// Adds the endpoint to the log.
pub(crate) fn endpoint(name: &'static str) {
    Span::current().record("endpoint", name);
}

/// The name of the endpoint in metrics, where the path does not tell: an extension of the response.
#[derive(Clone, Copy, Debug)]
struct EndpointName(&'static str);

/// Names the endpoint of a response for metrics.
pub(crate) fn endpoint_named(name: &'static str, mut response: Response) -> Response {
    response.extensions_mut().insert(EndpointName(name));
    response
}

/// Adds to the log who has answered, and why it was the homeserver.
pub(crate) fn answered_by(name: &'static str, fallback_reason: Option<&'static str>) {
    Span::current().record("answered_by", name).record("fallback_reason", fallback_reason);
}

/// Adds the requesting server and the room to the log. The room id is escaped, because it may contain any
/// character.
pub(crate) fn asked(origin: &ServerName, room_id: &str) {
    Span::current().record("origin", origin.as_str()).record("room", field::debug(room_id));
}

/// The number of events in a response: an extension of the response.
#[derive(Clone, Copy, Debug)]
struct EventCount(usize);

/// Adds the number of events to the log and to the response.
pub(crate) fn answered(events: usize, mut response: Response) -> Response {
    Span::current().record("events", events);
    response.extensions_mut().insert(EventCount(events));
    response
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_a_500() {
        async fn faulty() -> Response {
            panic!("this is part of the test")
        }
        let router = Router::new()
            .route("/", get(faulty))
            .layer(middleware::from_fn_with_state(Observer::default(), observe));
        let request = Request::new(Body::empty());

        let response = TowerToHyperService::new(router).call(request).await.unwrap();

        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&*body, br#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#);
    }
}
