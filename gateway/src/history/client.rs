//! Asks one instance of the history service; if it is not available, another one, once. If it does not
//! know the feeder, all others, one after another: of instances over one database only one knows it.

use std::sync::Arc;

use axum::http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, USER_AGENT},
};
use backscroll_grpc_client::{Call, EncodedMessage};
use backscroll_telemetry::trace;
use backscroll_tls::{Token, Watched};
use prost::Message;
use tokio::time::{self, Instant};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{
    GrpcMethod, HistoryOptions,
    pool::{Chosen, Pool},
};
use crate::{limits::AnswerMemory, metrics::Metrics, proto::ERROR_DOMAIN};

const PRODUCT: &str = concat!("backscroll-gateway/", env!("CARGO_PKG_VERSION"));

/// The answer to a question, shared by all that have asked it at the same time.
pub(super) type Answer<A> = Result<Arc<A>, Status>;

/// A question to the history service: a method and its encoded request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HistoryQuestion {
    method: GrpcMethod,
    message: EncodedMessage,
}

impl HistoryQuestion {
    pub(super) fn new(method: GrpcMethod, request: &impl Message) -> Self {
        Self { method, message: EncodedMessage::new(request) }
    }
}

/// Calls the instances of the history service. Clones share instances and connections.
#[derive(Clone, Debug)]
pub(super) struct HistoryClient {
    pool: Arc<Pool>,
    token: Option<Arc<Watched<Token>>>,
    metrics: Metrics,
    memory: Arc<AnswerMemory>,
}

impl HistoryClient {
    /// Creates the client, and starts the task that keeps the list of instances up to date.
    pub(super) fn start(
        options: HistoryOptions,
        metrics: Metrics,
        memory: Arc<AnswerMemory>,
    ) -> Self {
        if let Some(tls) = &options.tls {
            tls.watch();
        }
        if let Some(token) = &options.token {
            token.watch();
        }
        let pool = Pool::start(options.urls, options.tls, Arc::clone(&memory));
        Self { pool, token: options.token, metrics, memory }
    }

    /// Asks a question, whose answer must be received before the deadline. Questions change
    /// nothing that matters, so it is safe to ask a second instance.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        question: &HistoryQuestion,
        deadline: Instant,
    ) -> Answer<A> {
        let asking = async {
            let first = self.pool.choose(None).await?;
            match self.ask_instance(&first, question, deadline).await {
                Err(status) if status.code() == Code::Unavailable && !is_behind(&status) => {
                    first.set_unavailable();
                    let second = self.pool.choose(Some(&first)).await?;
                    self.ask_instance(&second, question, deadline).await
                }
                Err(status) if is_feeder_away(&status) => {
                    self.ask_others(first, status, question, deadline).await
                }
                answer => answer,
            }
        };
        // The service is told the deadline too, but it may be unable to keep it.
        match time::timeout_at(deadline, asking).await {
            Ok(answer) => answer.map(Arc::new),
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Asks the instances that may know the feeder, until one does. `refusal` is the answer of `first`,
    /// which does not know it.
    async fn ask_others<A: Message + Default>(
        &self,
        first: Chosen,
        mut refusal: Status,
        question: &HistoryQuestion,
        deadline: Instant,
    ) -> Result<A, Status> {
        let mut last = first;
        loop {
            last.set_without_feeder();
            let next = self.pool.choose(Some(&last)).await?;
            if next.is_without_feeder() {
                return Err(refusal);
            }
            match self.ask_instance(&next, question, deadline).await {
                Err(status) if is_feeder_away(&status) => (last, refusal) = (next, status),
                answer => return answer,
            }
        }
    }

    async fn ask_instance<A: Message + Default>(
        &self,
        instance: &Chosen,
        question: &HistoryQuestion,
        deadline: Instant,
    ) -> Result<A, Status> {
        let started = Instant::now();
        let HistoryQuestion { method, message } = question.clone();
        let headers = self.headers(deadline.saturating_duration_since(started))?;
        let call = Call { path: method.path, headers, message };
        let answer = instance.connection().call(call, &*self.memory).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.called(method.service, method.name, code, started.elapsed());
        answer
    }

    /// The metadata of a call: the time left, the trace it belongs to, the token.
    fn headers(&self, left: time::Duration) -> Result<HeaderMap, Status> {
        let mut request = Request::new(());
        request.set_timeout(left);
        let (metadata, ..) = request.into_parts();
        let mut headers = metadata.into_headers();
        headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        trace::write(&mut headers);
        if let Some(token) = &self.token {
            let value = HeaderValue::try_from(token.get().header());
            let mut value = value.map_err(|_| Status::internal("the token cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// Whether any instance reports SERVING, asked now.
    pub(super) async fn is_serving(&self) -> bool {
        self.pool.is_serving().await
    }
}

/// Whether the instance serves, but what it holds is older than the request allows.
fn is_behind(status: &Status) -> bool {
    let details = status.get_error_details();
    details
        .error_info()
        .is_some_and(|info| info.domain == ERROR_DOMAIN && info.reason == "FEEDER_BEHIND")
}

/// Whether the instance does not know a feeder.
fn is_feeder_away(status: &Status) -> bool {
    let details = status.get_error_details();
    let feeder = details.error_info().and_then(|info| info.metadata.get("feeder"));
    is_behind(status) && feeder.is_some_and(|it| it == "AWAY")
}
