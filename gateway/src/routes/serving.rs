//! Answers an admitted request: from the history service, or from the homeserver where there is a
//! fallback and a rule says so.

use axum::{
    body::Bytes,
    http::{StatusCode, request::Parts},
    response::Response,
};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    admission::{self, AdmittedRequest, Caller, StreamedAnswer},
    answer,
    context::Context,
    error::ApiError,
    fallback::{
        Fallback, FallbackReason, ForwardedHead, ForwardedRequest, HomeserverError, passed_on,
        reason_of,
    },
    limits::Permit,
    observe,
    proto::v1::{BackfillRequest, GetMissingEventsRequest},
    server_name::ServerName,
    x_matrix::Unauthenticated,
};

/// A request for the history service.
pub(super) enum HistoryRequest {
    Backfill(BackfillRequest),
    GetMissingEvents(GetMissingEventsRequest),
}

/// An answer of the history service.
struct HistoryAnswer {
    response: Response,
    /// Number of events in it.
    events: usize,
    /// Whether a later tick of the feeder may bring events that were asked for.
    not_final: bool,
}

/// An authenticated request with its permit, and what it asks.
pub(super) struct Question<'a> {
    pub(super) cx: &'a Context,
    pub(super) origin: ServerName,
    pub(super) permit: Permit,
    pub(super) admitted: AdmittedRequest,
    pub(super) deadline: Instant,
    pub(super) request: HistoryRequest,
    /// The request as the homeserver gets it. `None`: it is not passed on.
    pub(super) forwarded: Option<ForwardedRequest>,
}

impl HistoryRequest {
    async fn ask(&self, cx: &Context, until: Instant) -> Result<HistoryAnswer, Status> {
        let (events, response, not_final) = match self {
            Self::Backfill(request) => {
                let answer = cx.history.backfill(request, until).await?;
                let pdus = answer.pdus.clone();
                let response = answer::backfill(&cx.server_name, cx.clock.now_ms(), pdus);
                (answer.forms.len(), response, answer.not_final)
            }
            Self::GetMissingEvents(request) => {
                let answer = cx.history.get_missing_events(request, until).await?;
                let response = answer::get_missing_events(answer.pdus.clone());
                (answer.forms.len(), response, answer.not_final)
            }
        };
        Ok(HistoryAnswer { response, events, not_final })
    }
}

impl HistoryAnswer {
    fn into_response(self) -> Response {
        observe::answered(self.events, self.response)
    }
}

impl Question<'_> {
    /// Answers the question. The response holds the permit until it has been written.
    pub(super) async fn answer(mut self) -> Response {
        let answer = self.find_answer().await;
        let Self { origin, permit, admitted, .. } = self;
        admitted.respond(origin, permit, answer)
    }

    async fn find_answer(&mut self) -> Result<Response, ApiError> {
        let cx = self.cx;
        let (Some(fallback), Some(forwarded)) = (&cx.fallback, self.forwarded.take()) else {
            let answer = self.request.ask(cx, self.deadline).await;
            return Ok(answer.map_err(ApiError::from)?.into_response());
        };
        if fallback.is_first_of(&self.origin) {
            let reason = FallbackReason::FirstOfOrigin;
            // It waits for nothing: the history service can answer too.
            let passed = self.pass_on(fallback, forwarded.clone(), reason, Instant::now()).await;
            match passed {
                Ok(response) => return Ok(response),
                Err(error) => tracing::info!("the history service is asked instead: {error}"),
            }
        }
        let until = self.deadline.min(Instant::now() + fallback.history_time);
        let (reason, error) = match self.request.ask(cx, until).await {
            Ok(answer) if !answer.not_final => return Ok(answer.into_response()),
            Ok(_not_final) => (FallbackReason::NotFinal, None),
            Err(status) => match reason_of(&status) {
                None => return Err(status.into()),
                Some(reason) => (reason, Some(status)),
            },
        };
        let passed = self.pass_on(fallback, forwarded, reason, self.deadline).await;
        passed.map_err(|failure| match error {
            // As without a fallback.
            Some(status) if reason.is_failure_of_history() => {
                tracing::warn!("{failure}");
                status.into()
            }
            _ => failure.into(),
        })
    }

    /// Passes the request on, once there is a permit for it, which it waits for until `permit_until`.
    async fn pass_on(
        &mut self,
        fallback: &Fallback,
        forwarded: ForwardedRequest,
        reason: FallbackReason,
        permit_until: Instant,
    ) -> Result<Response, HomeserverError> {
        // The history service may answer another request meanwhile.
        self.permit.answered();
        let permit = self.cx.limits.fallback.admit(&self.origin, permit_until).await;
        let permit = match permit {
            Ok(permit) => permit,
            Err(limited) => {
                let error = HomeserverError::Limited(limited);
                fallback.metrics.failed(error.cause());
                return Err(error);
            }
        };
        let response = ask(fallback, forwarded, reason, self.deadline).await?;
        Ok(StreamedAnswer::new(None, permit).attach_to(response))
    }
}

/// The request as the homeserver gets it. `None` if there is no fallback, or it must not be passed on.
pub(super) fn forwarded(cx: &Context, request: &Parts, body: &Bytes) -> Option<ForwardedRequest> {
    cx.fallback.as_ref()?;
    Some(ForwardedRequest { head: forwarded_head(cx, request)?, body: body.clone() })
}

pub(super) fn forwarded_head(cx: &Context, request: &Parts) -> Option<ForwardedHead> {
    let caller: &Caller = request.extensions.get()?;
    let forwarded_for = admission::forwarded_for(&cx.limits, caller, &request.headers);
    ForwardedHead::of(request, &forwarded_for)
}

/// Passes on a request whose signature cannot be verified here, so that the homeserver authenticates
/// it. `error` is the response if it is not passed on, or the homeserver does not answer.
pub(super) async fn pass_on_unverified(
    cx: &Context,
    request: &Parts,
    forwarded: Option<ForwardedRequest>,
    error: Unauthenticated,
) -> Result<Response, ApiError> {
    let caller: Option<&Caller> = request.extensions.get();
    let (Some(fallback), Some(forwarded), Some(caller)) = (&cx.fallback, forwarded, caller) else {
        return Err(error.into());
    };
    let Some(counted) = cx.limits.fallback.unauthenticated(caller.address) else {
        return Err(error.into());
    };
    let Ok(response) = ask(fallback, forwarded, FallbackReason::NoKeys, cx.deadline()).await else {
        return Err(error.into());
    };
    if response.status() != StatusCode::UNAUTHORIZED {
        caller.attempt.succeeded();
    }
    Ok(StreamedAnswer::new(None, counted).attach_to(response))
}

/// Asks the homeserver. Returns its response when the head has been received.
async fn ask(
    fallback: &Fallback,
    forwarded: ForwardedRequest,
    reason: FallbackReason,
    until: Instant,
) -> Result<Response, HomeserverError> {
    let started = Instant::now();
    let in_flight = fallback.metrics.started(reason.word());
    match fallback.homeserver.ask(forwarded, until).await {
        Ok(response) => {
            fallback.metrics.answered(reason.word(), started.elapsed());
            Ok(super::answered_by::homeserver(passed_on(response, in_flight), reason))
        }
        Err(error) => {
            fallback.metrics.failed(error.cause());
            Err(error)
        }
    }
}
