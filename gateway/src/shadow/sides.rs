//! What each side has answered, in a form that can be compared.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{self, Instant};
use tonic::{Code, Status};

use crate::{
    error::ApiError,
    fallback::{ForwardedRequest, Homeserver, reason_of},
    history::History,
    proto::v1::compare_answers_request::Question,
};

/// The largest answer of the homeserver that is compared, in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What one side has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SideAnswer {
    /// A JSON array of events.
    Events(Bytes),
    /// An error: the status, and the error code.
    Refused(u16, String),
    /// No answer that can be compared, and why.
    NotComparable(&'static str),
}

/// What the history service has answered to a request, before it is compared.
#[derive(Clone, Debug)]
pub(crate) struct HistorySide {
    answer: SideAnswer,
    /// How long it took.
    pub(super) took: Duration,
}

impl HistorySide {
    /// The answer of the history service. `not_final` says whether a later tick of the feeder may
    /// bring more.
    pub(crate) fn answered(pdus: Bytes, not_final: bool, took: Duration) -> Self {
        let answer = if not_final {
            SideAnswer::NotComparable("not_final")
        } else {
            SideAnswer::Events(pdus)
        };
        Self { answer, took }
    }

    /// The error of the history service. One for which the homeserver answers is not compared, and
    /// neither is one that depends on the form of the request alone, or on limits.
    pub(crate) fn failed(status: Status, took: Duration) -> Self {
        let answer = match (reason_of(&status), status.code()) {
            (Some(reason), _) => SideAnswer::NotComparable(reason.word()),
            (None, Code::InvalidArgument) => SideAnswer::NotComparable("invalid_request"),
            (None, Code::ResourceExhausted) => SideAnswer::NotComparable("history_busy"),
            (None, _) => {
                let error = ApiError::from(status);
                SideAnswer::Refused(error.status().as_u16(), error.errcode().to_owned())
            }
        };
        Self { answer, took }
    }

    /// The answer, to be compared.
    pub(super) fn into_answer(self) -> SideAnswer {
        self.answer
    }

    /// Asks the history service.
    pub(super) async fn ask(history: &History, question: &Question, until: Instant) -> Self {
        let started = Instant::now();
        let answer = match question {
            Question::Backfill(request) => {
                let answer = history.backfill(request, until).await;
                answer.map(|it| (it.pdus.clone(), it.not_final))
            }
            Question::GetMissingEvents(request) => {
                let answer = history.get_missing_events(request, until).await;
                answer.map(|it| (it.pdus.clone(), it.not_final))
            }
        };
        match answer {
            Ok((pdus, not_final)) => Self::answered(pdus, not_final, started.elapsed()),
            Err(status) => Self::failed(status, started.elapsed()),
        }
    }
}

/// Asks the homeserver, and receives its whole answer. Returns the time to its head.
pub(super) async fn ask_homeserver(
    homeserver: &Homeserver,
    request: ForwardedRequest,
    until: Instant,
) -> HomeserverSide {
    let started = Instant::now();
    let Ok(response) = homeserver.ask(request, until).await else {
        return HomeserverSide::none("homeserver_away", started.elapsed());
    };
    let took = started.elapsed();
    let (head, body) = response.into_parts();
    let body = Limited::new(Body::new(body), MAX_ANSWER_BYTES).collect();
    match time::timeout_at(until, body).await {
        Ok(Ok(body)) => HomeserverSide::answered(head.status, &body.to_bytes(), took),
        Ok(Err(_)) => HomeserverSide::none("answer_too_large_or_broken", took),
        Err(_elapsed) => HomeserverSide::none("homeserver_slow", took),
    }
}

/// What the homeserver has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HomeserverSide {
    pub(super) answer: SideAnswer,
    /// How long the head of the answer took.
    pub(super) took: Duration,
}

impl HomeserverSide {
    pub(super) fn none(why: &'static str, took: Duration) -> Self {
        Self { answer: SideAnswer::NotComparable(why), took }
    }

    /// Reads an answer: of `/backfill` the member `pdus`, of `/get_missing_events` the member `events`.
    pub(super) fn answered(status: StatusCode, body: &[u8], took: Duration) -> Self {
        #[derive(Deserialize)]
        struct EventsAnswer<'a> {
            #[serde(borrow, alias = "pdus")]
            events: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Refusal {
            errcode: String,
        }
        let answer = if status == StatusCode::OK {
            let read: Result<EventsAnswer<'_>, _> = serde_json::from_slice(body);
            let text = |it: EventsAnswer<'_>| Bytes::copy_from_slice(it.events.get().as_bytes());
            read.map(|it| SideAnswer::Events(text(it))).ok()
        } else if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            Some(SideAnswer::NotComparable("homeserver_failed"))
        } else {
            let read: Result<Refusal, _> = serde_json::from_slice(body);
            read.map(|it| SideAnswer::Refused(status.as_u16(), it.errcode)).ok()
        };
        Self { answer: answer.unwrap_or(SideAnswer::NotComparable("homeserver_failed")), took }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> SideAnswer {
        let status = StatusCode::from_u16(status).unwrap();
        HomeserverSide::answered(status, body.as_bytes(), Duration::ZERO).answer
    }

    #[test]
    fn answers_of_the_homeserver() {
        let events = |text: &'static str| SideAnswer::Events(Bytes::from_static(text.as_bytes()));
        let backfill = r#"{"origin":"a","origin_server_ts":1,"pdus":[{"a":1}, {}]}"#;
        assert_eq!(answer(200, backfill), events(r#"[{"a":1}, {}]"#));
        assert_eq!(answer(200, r#"{"events":[]}"#), events("[]"));
        let refused = SideAnswer::Refused(403, "M_FORBIDDEN".to_owned());
        assert_eq!(answer(403, r#"{"errcode":"M_FORBIDDEN","error":"x"}"#), refused);
        for (status, body) in [(200, "{}"), (200, "<html>"), (403, "no"), (429, "{}"), (502, "x")] {
            let failed = SideAnswer::NotComparable("homeserver_failed");
            assert_eq!(answer(status, body), failed, "{status} {body}");
        }
    }

    #[test]
    fn errors_for_which_the_homeserver_answers_are_not_compared() {
        let failed = |code| HistorySide::failed(Status::new(code, "x"), Duration::ZERO).answer;
        for (code, why) in [
            (Code::Unavailable, "history_away"),
            (Code::PermissionDenied, "history_failed"),
            (Code::InvalidArgument, "invalid_request"),
            (Code::ResourceExhausted, "history_busy"),
        ] {
            assert_eq!(failed(code), SideAnswer::NotComparable(why));
        }
        let answered = HistorySide::answered(Bytes::from_static(b"[]"), true, Duration::ZERO);
        assert_eq!(answered.answer, SideAnswer::NotComparable("not_final"));
    }
}
