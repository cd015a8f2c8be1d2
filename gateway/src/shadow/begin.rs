//! Which requests are compared, and how many at the same time.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Answerer, ShadowOptions, ShadowResults,
    observed::Observed,
    sides::{HistorySide, HomeserverSide},
};
use crate::{
    clock::Clock,
    fallback::{ForwardedRequest, Homeserver},
    history::History,
    proto::v1::{Requester, compare_answers_request::Question},
    random::Random,
};

/// Longest time for an answer that is asked for only to compare it.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Compares answers of the homeserver and of the history service.
#[derive(Debug)]
pub(crate) struct Shadow {
    answerer: Answerer,
    rate: f64,
    permits: Arc<Semaphore>,
    random: Random,
    parts: Arc<ShadowParts>,
}

/// What a comparison needs.
#[derive(Debug)]
pub(super) struct ShadowParts {
    pub(super) history: Arc<History>,
    pub(super) homeserver: Arc<Homeserver>,
    pub(super) results: ShadowResults,
    pub(super) clock: Clock,
}

/// The comparison of the answers to one request. One that is dropped without both answers is counted as
/// not compared.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(super) parts: Arc<ShadowParts>,
    pub(super) question: Question,
    pub(super) forwarded: ForwardedRequest,
    pub(super) began: Instant,
    /// The answer of the history service, if it is asked only to compare.
    pub(super) asked_history: Option<JoinHandle<HistorySide>>,
    pub(super) concluded: bool,
    _permit: OwnedSemaphorePermit,
}

impl Shadow {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(
        options: ShadowOptions,
        history: Arc<History>,
        homeserver: Arc<Homeserver>,
        clock: Clock,
        random: Random,
    ) -> Self {
        let ShadowOptions { answerer, rate, concurrency, results } = options;
        results.begin(answerer.name(), rate, clock.now_ms());
        let parts = ShadowParts { history, homeserver, results, clock };
        let permits = Arc::new(Semaphore::new(concurrency));
        Self { answerer, rate, permits, random, parts: Arc::new(parts) }
    }

    /// Whether the homeserver answers everything.
    pub(crate) fn homeserver_answers(&self) -> bool {
        self.answerer == Answerer::Homeserver
    }

    /// Begins the comparison of the answers to a request. `None` if it is not compared.
    pub(crate) fn begin(
        &self,
        question: impl FnOnce() -> Question,
        forwarded: &ForwardedRequest,
    ) -> Option<Comparison> {
        if self.random.fraction() >= self.rate {
            return None;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.parts.results.not_compared("too_many");
            return None;
        };
        let mut comparison = Comparison {
            parts: Arc::clone(&self.parts),
            question: question(),
            forwarded: forwarded.clone(),
            began: Instant::now(),
            asked_history: None,
            concluded: false,
            _permit: permit,
        };
        if self.homeserver_answers() {
            comparison.ask_history();
        }
        Some(comparison)
    }
}

impl Comparison {
    fn ask_history(&mut self) {
        let (parts, question) = (Arc::clone(&self.parts), self.question.clone());
        let until = self.began + ANSWER_TIME;
        let asking = async move { HistorySide::ask(&parts.history, &question, until).await };
        self.asked_history = Some(tokio::spawn(asking));
    }

    /// The history service has answered the request: asks the homeserver, and compares.
    pub(crate) fn history_answered(self, history: HistorySide) {
        tokio::spawn(async move {
            let homeserver = self.ask_homeserver().await;
            self.run(history, homeserver).await;
        });
    }

    /// The homeserver answers the request. Returns its response, of which a copy is compared when it was
    /// sent as a whole.
    pub(crate) fn homeserver_answered(self, response: Response) -> Response {
        let took = self.began.elapsed();
        let (head, body) = response.into_parts();
        let observed = Observed::new(body, self, head.status, took);
        Response::from_parts(head, Body::new(observed))
    }

    /// The whole answer of the homeserver was sent: compares it.
    pub(super) fn homeserver_was_sent(mut self, homeserver: HomeserverSide) {
        let Some(asked) = self.asked_history.take() else { return };
        tokio::spawn(async move {
            // A task that panicked has logged it.
            let Ok(history) = asked.await else { return };
            self.run(history, homeserver).await;
        });
    }

    /// The request is not compared.
    pub(crate) fn not_compared(mut self, why: &'static str) {
        self.concluded = true;
        self.parts.results.not_compared(why);
    }

    pub(super) fn requester(&self) -> Option<&Requester> {
        match &self.question {
            Question::Backfill(it) => it.requester.as_ref(),
            Question::GetMissingEvents(it) => it.requester.as_ref(),
        }
    }

    pub(super) fn room_id(&self) -> &str {
        match &self.question {
            Question::Backfill(it) => &it.room_id,
            Question::GetMissingEvents(it) => &it.room_id,
        }
    }
}

impl Drop for Comparison {
    fn drop(&mut self) {
        if let Some(asked) = self.asked_history.take() {
            asked.abort();
        }
        if !self.concluded {
            self.parts.results.not_compared("not_answered");
        }
    }
}
