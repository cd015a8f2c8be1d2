//! The W3C trace context (<https://www.w3.org/TR/trace-context/>): read from incoming requests, and written
//! into outgoing ones. It is passed on even by a service that sends no traces itself.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{FutureExt as _, TraceContextExt as _, WithContext},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The trace that a request belongs to, if it has one.
#[derive(Clone, Debug)]
pub struct Trace(Context);

impl Trace {
    /// Reads the headers of a request. Invalid ones are ignored.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Self(TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers)))
    }

    /// The id of the trace: 32 hexadecimal digits. `None` if the request belongs to no trace.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        let context = self.0.span().span_context().clone();
        context.is_valid().then(|| context.trace_id().to_string())
    }

    /// Runs `work` within the trace: spans that it creates belong to the trace.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.0.clone().attach();
        work()
    }

    /// Wraps a future, so that its spans and outgoing requests belong to the trace.
    pub fn carry<F: Future>(&self, future: F) -> WithContext<F> {
        future.with_context(self.0.clone())
    }
}

/// Writes the current trace into the headers of an outgoing request.
pub fn write(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject(&mut HeadersMut(headers));
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced(traceparent: &'static str) -> Trace {
        Trace::of(&HeaderMap::from_iter([(
            HeaderName::from_static("traceparent"),
            HeaderValue::from_static(traceparent),
        )]))
    }

    #[tokio::test]
    async fn a_trace_is_passed_on_to_outgoing_requests() {
        let trace = traced(PARENT);
        assert_eq!(trace.id().as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        let mut headers = HeaderMap::new();
        trace.carry(async { write(&mut headers) }).await;
        assert_eq!(headers.get("traceparent").unwrap(), PARENT);
    }

    #[test]
    fn invalid_headers_are_no_trace() {
        for wrong in
            ["", "00", "00-0-0-0", "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            let trace = traced(wrong);
            assert_eq!(trace.id(), None, "{wrong}");
            let mut headers = HeaderMap::new();
            trace.scope(|| write(&mut headers));
            assert!(!headers.contains_key("traceparent"), "{headers:?}");
        }
    }
}
