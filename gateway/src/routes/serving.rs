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
    proto::v1::{
        BackfillRequest, GetMissingEventsRequest, compare_answers_request::Question as Compared,
    },
    server_name::ServerName,
    shadow::{Comparison, HistorySide, Shadow},
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
    /// These events: a JSON array.
    pdus: Bytes,
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
        let (events, response, pdus, not_final) = match self {
            Self::Backfill(request) => {
                let answer = cx.history.backfill(request, until).await?;
                let pdus = answer.pdus.clone();
                let response = answer::backfill(&cx.server_name, cx.clock.now_ms(), pdus.clone());
                (answer.forms.len(), response, pdus, answer.not_final)
            }
            Self::GetMissingEvents(request) => {
                let answer = cx.history.get_missing_events(request, until).await?;
                let pdus = answer.pdus.clone();
                let response = answer::get_missing_events(pdus.clone());
                (answer.forms.len(), response, pdus, answer.not_final)
            }
        };
        Ok(HistoryAnswer { response, events, pdus, not_final })
    }

    fn compared(&self) -> Compared {
        match self {
            Self::Backfill(request) => Compared::Backfill(request.clone()),
            Self::GetMissingEvents(request) => Compared::GetMissingEvents(request.clone()),
        }
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
        if cx.shadow.as_ref().is_some_and(Shadow::homeserver_answers) {
            return Ok(self.pass_on_and_compare(fallback, forwarded).await?);
        }
        if fallback.is_first_of(&self.origin) {
            let reason = FallbackReason::FirstOfOrigin;
            // It waits for nothing: the history service can answer too.
            let passed = self.pass_on(fallback, forwarded.clone(), reason, Instant::now()).await;
            match passed {
                Ok(response) => return Ok(response),
                Err(error) => tracing::info!("the history service is asked instead: {error}"),
            }
        }
        let comparison = self.begin_comparison(&forwarded);
        let asked = Instant::now();
        let until = self.deadline.min(asked + fallback.history_time);
        let (reason, error) = match self.request.ask(cx, until).await {
            Ok(answer) if !answer.not_final => {
                if let Some(comparison) = comparison {
                    let pdus = answer.pdus.clone();
                    let history = HistorySide::answered(pdus, false, asked.elapsed());
                    comparison.history_answered(history);
                }
                return Ok(answer.into_response());
            }
            Ok(_not_final) => (FallbackReason::NotFinal, None),
            Err(status) => match reason_of(&status) {
                None => {
                    if let Some(comparison) = comparison {
                        let history = HistorySide::failed(status.clone(), asked.elapsed());
                        comparison.history_answered(history);
                    }
                    return Err(status.into());
                }
                Some(reason) => (reason, Some(status)),
            },
        };
        if let Some(comparison) = comparison {
            comparison.not_compared(reason.word());
        }
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

    fn begin_comparison(&self, forwarded: &ForwardedRequest) -> Option<Comparison> {
        self.cx.shadow.as_ref()?.begin(|| self.request.compared(), forwarded)
    }

    /// Passes the request on whatever the history service would answer, and compares the answers.
    async fn pass_on_and_compare(
        &mut self,
        fallback: &Fallback,
        forwarded: ForwardedRequest,
    ) -> Result<Response, HomeserverError> {
        let comparison = self.begin_comparison(&forwarded);
        let reason = FallbackReason::Shadow;
        let response = self.pass_on(fallback, forwarded, reason, self.deadline).await?;
        Ok(match comparison {
            Some(comparison) => comparison.homeserver_answered(response),
            None => response,
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
