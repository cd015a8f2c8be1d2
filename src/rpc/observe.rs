//! A layer around every call: it logs one line, counts the call, measures its time and continues its
//! trace. Handlers add fields to the line. A call ends when its response was sent or its caller has
//! left; the line is logged then, once.

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

/// Prefix of the services that probes and tools call many times a minute. They are logged at the
/// level `debug`.
const QUIET: &str = "grpc.";
/// The label of calls to an unknown method.
const UNKNOWN: &str = "unknown";

/// The layer that observes calls.
#[derive(Clone, Debug)]
pub struct Observe {
    metrics: Metrics,
    /// The known services and their methods: no other name becomes a label.
    methods: Arc<BTreeSet<(String, String)>>,
}

impl Observe {
    /// Observes calls of the methods in some compiled descriptors.
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

    /// The method that a path names; [`UNKNOWN`] if there is no such method.
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

/// A service whose calls are observed.
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
    type Response = Response<ObservedBody>;
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
            let mut watched = ObservedBody { body, call: watched };
            // A refusal has its status in the head and no body.
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
        waited = field::Empty,
        appended = field::Empty,
        duplicates = field::Empty,
        replaced = field::Empty,
        purged = field::Empty,
        refused = field::Empty,
    )
}

/// A call that has not ended.
#[derive(Debug)]
struct Call {
    metrics: Metrics,
    method: Method,
    started: Instant,
    span: Span,
}

/// Logs and counts the end of a call, once. A call whose guard is dropped before was cancelled.
#[derive(Debug)]
struct CallGuard(Option<Call>);

impl CallGuard {
    fn end(&mut self, code: Code) {
        let Some(Call { metrics, method, started, span }) = self.0.take() else { return };
        let after = started.elapsed();
        metrics.handled(&method, code_name(code.into()), after);
        let _entered = span.enter();
        let code = code_name(code.into());
        // 64 bits are logged as a number, the 128 of `as_millis` as text.
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
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

/// The body of a response; its end is the end of the call.
#[derive(Debug)]
pub struct ObservedBody {
    body: Body,
    call: CallGuard,
}

impl HttpBody for ObservedBody {
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
