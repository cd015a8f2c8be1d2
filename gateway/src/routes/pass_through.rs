//! Passes all other requests of the federation API through to the homeserver, if it is configured:
//! unverified, and their bodies in both directions while they are received. Everything else has no such
//! path.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use super::{answered_by, serving};
use crate::{
    admission::{Caller, StreamedAnswer},
    context::Context,
    error::ApiError,
    fallback::{Fallback, FallbackReason, passed_on},
    limiter::Limiter,
    limits::{AnswerOwner, FAILURES_RETRY_AFTER, Limited, Protection, Share},
    observe,
};

/// What is passed through begins with one of these.
const PREFIXES: [&str; 2] = ["/_matrix/federation/", "/_matrix/key/"];
/// Largest body of a request. The largest that Synapse accepts of other servers has 12.5 MiB.
const MAX_BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Longest time until the head of the response. A homeserver may take minutes to let a server join a
/// large room.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Passes a request through, or answers that there is no such path.
pub(crate) async fn pass_through(
    State(cx): State<Arc<Context>>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let is_passed = PREFIXES.iter().any(|prefix| path.starts_with(prefix));
    let (parts, body) = request.into_parts();
    let caller: Option<&Caller> = parts.extensions.get();
    let fallback = cx.fallback.as_ref().filter(|it| it.passes_through && is_passed);
    let (Some(fallback), Some(caller)) = (fallback, caller) else {
        return Err(ApiError::unknown_path());
    };
    observe::endpoint("pass_through");
    let head = serving::forwarded_head(&cx, &parts).ok_or_else(ApiError::unknown_path)?;
    let response = match admit(&cx, caller) {
        Ok(share) => {
            // The connection is not closed for others meanwhile.
            let connection = caller.connection.protect();
            let body = UploadBody::new(body, Arc::clone(&share))?;
            let upload = Arc::clone(&body.state);
            let sent = send(fallback, head, body).await;
            upload.protection.lock().unwrap_or_else(PoisonError::into_inner).take();
            if upload.is_too_large.load(Ordering::Relaxed) {
                return Err(too_large());
            }
            let response = sent?;
            if response.status() != StatusCode::UNAUTHORIZED {
                caller.attempt.succeeded();
            }
            StreamedAnswer::new(Some(share), connection).attach_to(response)
        }
        Err(limited) => {
            cx.limits.refusal_turn().await;
            return Err(limited.into());
        }
    };
    fallback.metrics.passed_through(response.status());
    Ok(observe::endpoint_named("pass_through", response))
}

fn admit(cx: &Context, caller: &Caller) -> Result<Arc<Share<AnswerOwner>>, Limited> {
    if !cx.limits.accepts_requests_from(caller.address) {
        let limiter = Limiter::Failures;
        return Err(Limited { limiter, retry_after: FAILURES_RETRY_AFTER });
    }
    cx.limits.fallback.pass_through(caller.address, caller.eviction.clone())
}

async fn send(
    fallback: &Fallback,
    head: crate::fallback::ForwardedHead,
    body: UploadBody,
) -> Result<Response, ApiError> {
    let reason = FallbackReason::PassThrough;
    let started = Instant::now();
    let in_flight = fallback.metrics.started(reason.word());
    let answer = fallback.homeserver.stream(head, Body::new(body), started + TIMEOUT).await;
    match answer {
        Ok(response) => {
            fallback.metrics.answered(reason.word(), started.elapsed());
            Ok(answered_by::homeserver(passed_on(response, in_flight), reason))
        }
        Err(error) => {
            fallback.metrics.failed(error.cause());
            Err(error.into())
        }
    }
}

fn too_large() -> ApiError {
    ApiError::body_too_large(usize::try_from(MAX_BODY_BYTES).unwrap_or(usize::MAX))
}

/// The body of a request, which is passed on while it is received. Until it has been received
/// completely the request may be evicted for others, and it is if nothing arrives for a while.
struct UploadBody {
    body: Body,
    received: u64,
    state: Arc<UploadState>,
}

/// What the handler knows of the body.
struct UploadState {
    share: Arc<Share<AnswerOwner>>,
    is_too_large: AtomicBool,
    /// Held from when the body has been received completely until the homeserver has answered.
    protection: Mutex<Option<Protection<AnswerOwner>>>,
}

/// Why a body is not passed on any further.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body broke off")]
    BrokenOff,
}

impl UploadBody {
    fn new(body: Body, share: Arc<Share<AnswerOwner>>) -> Result<Self, ApiError> {
        if body.size_hint().lower() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        let is_received = body.is_end_stream();
        let (is_too_large, protection) = (AtomicBool::new(false), Mutex::default());
        let state = Arc::new(UploadState { share, is_too_large, protection });
        if is_received {
            state.received();
        }
        Ok(Self { body, received: 0, state })
    }
}

impl UploadState {
    fn received(&self) {
        let mut protection = self.protection.lock().unwrap_or_else(PoisonError::into_inner);
        *protection = self.share.protect();
    }
}

impl HttpBody for UploadBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Some(Err(UploadError::BrokenOff))),
                None => {
                    self.state.received();
                    return Poll::Ready(None);
                }
            };
            // Trailers are left out.
            let Ok(data) = frame.into_data() else { continue };
            self.received += u64::try_from(data.len()).unwrap_or(u64::MAX);
            if self.received > MAX_BODY_BYTES {
                self.state.is_too_large.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(UploadError::TooLarge)));
            }
            self.state.share.progressed();
            if self.body.is_end_stream() {
                self.state.received();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
