//! Around every call: one line in the log, its count and its time, and the trace that it belongs
//! to. Doors add to the line what they learn. A call ends when its answer has gone out, or the
//! caller has gone; what is said of it then is said once.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use axum::http::{HeaderMap, Request, Response};
use backscroll_telemetry::{code_name, trace::Trace};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field, info_span};

use crate::metrics::{Method, Metrics};

/// The services that probes and tools ask, many times a minute.
const QUIET: &str = "grpc.";
/// So many bytes of a room id are logged; ids have at most 255.
const MAX_SHOWN: usize = 255;
/// What a call of no known method is counted as.
const UNKNOWN: &str = "unknown";

/// The layer.
#[derive(Clone, Debug)]
pub struct Observe {
    metrics: Metrics,
    /// Services and methods that there are: nothing else becomes a label.
    methods: Arc<BTreeSet<(String, String)>>,
}

impl Observe {
    /// Counts calls of the methods in some compiled descriptors.
    #[must_use]
    pub fn new(metrics: Metrics, descriptors: &[&[u8]]) -> Self {
        let sets = descriptors.iter().filter_map(|it| FileDescriptorSet::decode(*it).ok());
        let mut methods = BTreeSet::new();
        for file in sets.flat_map(|it| it.file) {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                let of = service.method.iter().map(|it| (name.clone(), it.name().to_owned()));
                methods.extend(of);
            }
        }
        Self { metrics, methods: Arc::new(methods) }
    }

    /// The method that a path names.
    fn method(&self, path: &str) -> Method {
        let parts = path.strip_prefix('/').and_then(|it| it.split_once('/'));
        let parts = parts.map(|(service, method)| (service.to_owned(), method.to_owned()));
        let known = parts.filter(|it| self.methods.contains(it));
        let (grpc_service, grpc_method) =
            known.unwrap_or_else(|| (UNKNOWN.to_owned(), UNKNOWN.to_owned()));
        Method { grpc_service, grpc_method }
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { observe: self.clone(), inner }
    }
}

/// A service around which calls are observed.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    observe: Observe,
    inner: S,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Watched>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = self.observe.method(request.uri().path());
        let trace = Trace::of(request.headers());
        let span = trace.scope(|| span(&method));
        if let Some(id) = trace.id() {
            span.record("trace", id);
        }
        let metrics = self.observe.metrics.clone();
        metrics.started(&method);
        let call = Call { metrics, method, started: Instant::now(), span: span.clone() };
        let watched = CallGuard(Some(call));
        let answer = span.in_scope(|| self.inner.call(request)).instrument(span);
        Box::pin(trace.carry(async move {
            let response = answer.await?;
            let (head, body) = response.into_parts();
            let mut watched = Watched { body, call: watched };
            // A refusal has its status in the head, and no body.
            if let Some(status) = Status::from_header_map(&head.headers) {
                watched.call.end(status.code());
            }
            Ok(Response::from_parts(head, watched))
        }))
    }
}

fn span(method: &Method) -> Span {
    info_span!(
        "call",
        method = method.grpc_method,
        trace = field::Empty,
        origin = field::Empty,
        room = field::Empty,
        full = field::Empty,
        redacted = field::Empty,
        visited = field::Empty,
        end = field::Empty,
        appended = field::Empty,
        duplicates = field::Empty,
        purged = field::Empty,
        refused = field::Empty,
    )
}

/// A call under way.
#[derive(Debug)]
struct Call {
    metrics: Metrics,
    method: Method,
    started: Instant,
    span: Span,
}

/// Says of a call how it ended, once; if nobody did, that it was cancelled.
#[derive(Debug)]
struct CallGuard(Option<Call>);

impl CallGuard {
    fn end(&mut self, code: Code) {
        let Some(Call { metrics, method, started, span }) = self.0.take() else { return };
        let after = started.elapsed();
        metrics.handled(&method, code_name(code.into()), after);
        let _entered = span.enter();
        // As a number: wider ones are logged as text.
        let (code, ms) =
            (code_name(code.into()), u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        if method.grpc_service.starts_with(QUIET) {
            tracing::debug!(code, ms, "answered");
        } else {
            tracing::info!(code, ms, "answered");
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer, whose end is the end of the call.
#[derive(Debug)]
pub struct Watched {
    body: Body,
    call: CallGuard,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.end(code_of(trailers));
                }
            }
            Poll::Ready(Some(Err(_)) | None) => self.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_of(trailers: &HeaderMap) -> Code {
    Status::from_header_map(trailers).map_or(Code::Unknown, |it| it.code())
}

/// What a walk's answer says, for the log and the counts.
pub(super) struct Walked<'a> {
    pub(super) question: &'static str,
    pub(super) page: &'a crate::query::Page,
}

impl Walked<'_> {
    pub(super) fn note(&self, metrics: &Metrics) {
        use crate::{graph::End, visibility::Form};
        let Self { question, page } = self;
        let end = match page.end {
            End::Exhausted => "exhausted",
            End::Limit => "limit",
            End::Budget => "budget",
            End::Size => "size",
        };
        let redacted = page.events.iter().filter(|it| it.form == Form::Redacted).count();
        let full = page.events.len() - redacted;
        let count = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
        metrics.walked(question, page.visited, end);
        metrics.served("full", count(full));
        metrics.served("redacted", count(redacted));
        let span = Span::current();
        span.record("full", full).record("redacted", redacted);
        span.record("visited", page.visited).record("end", end);
    }
}

/// Who asks about which room, for the log. Escaped, and cut off: a room id may hold anything.
pub(super) fn asked(origin: Option<&str>, room_id: &str) {
    let span = Span::current();
    if let Some(origin) = origin {
        span.record("origin", field::debug(origin));
    }
    let shown = room_id.get(..room_id.floor_char_boundary(MAX_SHOWN)).unwrap_or_default();
    span.record("room", field::debug(shown));
}
