//! The history service, as a client sees it: one or several. Every call has a deadline, which the
//! service is told; connections are made when they are first needed, and again when they break.

mod call;
mod connection;
mod keys;
mod options;
mod pool;
mod single_flight;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use backscroll_telemetry::trace;
use prost::Message;
use tokio::time::{self, Instant};
use tonic::{Code, Request, Status};

pub(crate) use self::keys::{KeysNotGiven, RememberedKeys};
pub use self::options::{HistoryFlags, HistoryOptions};
use self::{
    call::Framed,
    pool::{Chosen, Pool},
    single_flight::SingleFlight,
};
use crate::{
    limits::Room,
    metrics::Metrics,
    proto::v1::{
        BackfillRequest, BackfillResponse, GetMissingEventsRequest, GetMissingEventsResponse,
        history_service_server::SERVICE_NAME as HISTORY_SERVICE,
    },
};

/// A method of the service: its name, and where it is asked.
#[derive(Clone, Copy, Debug)]
struct Method {
    name: &'static str,
    path: &'static str,
}

const BACKFILL: Method =
    Method { name: "Backfill", path: "/backscroll.history.v1.HistoryService/Backfill" };
const GET_MISSING_EVENTS: Method = Method {
    name: "GetMissingEvents",
    path: "/backscroll.history.v1.HistoryService/GetMissingEvents",
};

/// The client.
#[derive(Debug)]
pub(crate) struct History {
    services: Services,
    backfills: SingleFlight<Framed, Answer<BackfillResponse>>,
    missing_events: SingleFlight<Framed, Answer<GetMissingEventsResponse>>,
}

/// What everybody who asked the same is given.
type Answer<A> = Result<Arc<A>, Status>;

#[derive(Clone, Debug)]
struct Services {
    pool: Arc<Pool>,
    options: HistoryOptions,
    metrics: Metrics,
}

impl History {
    /// Connects to nothing yet. Needs a runtime. Each of so many threads, which
    /// [`workers`](crate::workers) numbers, will have connections of its own.
    pub(crate) fn new(
        options: HistoryOptions,
        metrics: Metrics,
        threads: usize,
        room: Arc<Room>,
    ) -> Self {
        if let Some(tls) = &options.tls {
            tls.watch();
        }
        if let Some(token) = &options.token {
            token.watch();
        }
        let pool = Pool::start(options.clone(), threads, room);
        Self {
            services: Services { pool, options, metrics },
            backfills: SingleFlight::default(),
            missing_events: SingleFlight::default(),
        }
    }

    pub(crate) async fn backfill(
        &self,
        request: BackfillRequest,
        deadline: Instant,
    ) -> Answer<BackfillResponse> {
        let (services, question) = (self.services.clone(), Framed::new(&request));
        let key = question.clone();
        let ask = || async move { services.ask(BACKFILL, (deadline, question)).await };
        self.backfills.run(key, ask).await
    }

    pub(crate) async fn get_missing_events(
        &self,
        request: GetMissingEventsRequest,
        deadline: Instant,
    ) -> Answer<GetMissingEventsResponse> {
        let (services, question) = (self.services.clone(), Framed::new(&request));
        let key = question.clone();
        let ask = || async move { services.ask(GET_MISSING_EVENTS, (deadline, question)).await };
        self.missing_events.run(key, ask).await
    }

    /// What it remembers of other servers' keys.
    pub(crate) fn keys(&self) -> RememberedKeys {
        RememberedKeys(self.services.clone())
    }

    /// Whether any service says of itself that it answers.
    pub(crate) async fn is_serving(&self) -> bool {
        self.services.pool.is_serving().await
    }
}

impl Services {
    /// Asks one service; if it is away, another one, once. Questions change nothing, so asking
    /// twice does no harm.
    async fn ask<A: Message + Default>(
        &self,
        method: Method,
        (deadline, question): (Instant, Framed),
    ) -> Answer<A> {
        let asking = async {
            let first = self.pool.choose(None).await?;
            match self.ask_one(&first, method, (deadline, question.clone())).await {
                Err(status) if status.code() == Code::Unavailable => {
                    first.is_away();
                    let second = self.pool.choose(Some(&first)).await?;
                    self.ask_one(&second, method, (deadline, question)).await
                }
                answer => answer,
            }
        };
        // Both ends keep the deadline: the service may be too far gone to do so.
        match time::timeout_at(deadline, asking).await {
            Ok(answer) => answer.map(Arc::new),
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    async fn ask_one<A: Message + Default>(
        &self,
        one: &Chosen,
        Method { name, path }: Method,
        (deadline, question): (Instant, Framed),
    ) -> Result<A, Status> {
        let started = Instant::now();
        let headers = self.headers(deadline.saturating_duration_since(started))?;
        let answer = one.call(path, (headers, question)).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.called(name, code, started.elapsed());
        answer
    }

    /// How long we wait, which trace the question belongs to, and who we are.
    fn headers(&self, left: time::Duration) -> Result<HeaderMap, Status> {
        let mut request = Request::new(());
        request.set_timeout(left);
        let (metadata, ..) = request.into_parts();
        let mut headers = metadata.into_headers();
        trace::write(&mut headers);
        if let Some(token) = &self.options.token {
            let shown = HeaderValue::try_from(token.get().header());
            let mut shown = shown.map_err(|_| Status::internal("the token cannot be sent"))?;
            shown.set_sensitive(true);
            headers.insert(AUTHORIZATION, shown);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_service() {
        for Method { name, path } in [BACKFILL, GET_MISSING_EVENTS] {
            assert_eq!(path, format!("/{HISTORY_SERVICE}/{name}"));
        }
    }
}
