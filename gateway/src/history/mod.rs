//! The history service, as a client sees it: one or several. Every call has a deadline, which the
//! service is told; connections are made when they are first needed, and again when they break.

mod keys;
mod options;
mod pool;
mod single_flight;

use std::{error::Error, mem, sync::Arc};

use backscroll_telemetry::trace;
use prost::Message;
use tokio::time::{self, Instant};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Channel};

pub(crate) use self::keys::RememberedKeys;
pub use self::options::{HistoryFlags, HistoryOptions};
use self::{pool::Pool, single_flight::SingleFlight};
use crate::{
    metrics::Metrics,
    proto::v1::{
        BackfillRequest, BackfillResponse, GetMissingEventsRequest, GetMissingEventsResponse,
        history_service_client::HistoryServiceClient,
        history_service_server::SERVICE_NAME as HISTORY_SERVICE,
    },
};

/// What one answer may hold: the most PDUs, each of the most bytes, and room for ids and framing.
/// tonic's own limit, 4 MiB, is 63 such PDUs.
const MAX_PDUS: usize = 100;
const MAX_PDU_BYTES: usize = 65_536;
const SLACK_BYTES: usize = 2 * 1024 * 1024;
const MAX_ANSWER_BYTES: usize = MAX_PDUS * MAX_PDU_BYTES + SLACK_BYTES;

/// The client.
#[derive(Debug)]
pub(crate) struct History {
    services: Services,
    backfills: SingleFlight<Answer<BackfillResponse>>,
    missing_events: SingleFlight<Answer<GetMissingEventsResponse>>,
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
    /// Connects to nothing yet. Needs a runtime.
    pub(crate) fn new(options: HistoryOptions, metrics: Metrics) -> Self {
        if let Some(tls) = &options.tls {
            tls.watch();
        }
        if let Some(token) = &options.token {
            token.watch();
        }
        Self {
            services: Services { pool: Pool::start(options.clone()), options, metrics },
            backfills: SingleFlight::default(),
            missing_events: SingleFlight::default(),
        }
    }

    pub(crate) async fn backfill(
        &self,
        request: BackfillRequest,
        deadline: Instant,
    ) -> Answer<BackfillResponse> {
        let services = self.services.clone();
        let call = async |channel, request| client(channel).backfill(request).await;
        let key = request.encode_to_vec();
        let ask = || async move { services.ask("Backfill", (deadline, request), call).await };
        self.backfills.run(key, ask).await
    }

    pub(crate) async fn get_missing_events(
        &self,
        request: GetMissingEventsRequest,
        deadline: Instant,
    ) -> Answer<GetMissingEventsResponse> {
        let services = self.services.clone();
        let call = async |channel, request| client(channel).get_missing_events(request).await;
        let key = request.encode_to_vec();
        let ask =
            || async move { services.ask("GetMissingEvents", (deadline, request), call).await };
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

fn client(channel: Channel) -> HistoryServiceClient<Channel> {
    HistoryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

impl Services {
    /// Asks one service; if it is away, another one, once. Questions change nothing, so asking
    /// twice does no harm.
    async fn ask<Q: Clone, A, F>(
        &self,
        method: &'static str,
        (deadline, message): (Instant, Q),
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let asking = async {
            let first = self.pool.choose(None).await?;
            let request = self.request(message.clone(), deadline)?;
            let answer = self.counted(method, call(first.channel(), request)).await;
            match answer {
                Err(status) if status.code() == Code::Unavailable => {
                    first.is_away();
                    let second = self.pool.choose(Some(&first)).await?;
                    let request = self.request(message, deadline)?;
                    self.counted(method, call(second.channel(), request)).await
                }
                answer => answer,
            }
        };
        // Both ends keep the deadline: the service may be too far gone to do so.
        match time::timeout_at(deadline, asking).await {
            Ok(answer) => answer.map(|it| Arc::new(it.into_inner())),
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    async fn counted<A>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Status> {
        let started = Instant::now();
        let answer = call.await.map_err(lost);
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.called(method, code, started.elapsed());
        answer
    }

    fn request<Q>(&self, message: Q, deadline: Instant) -> Result<Request<Q>, Status> {
        let mut request = Request::new(message);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let mut headers = mem::take(request.metadata_mut()).into_headers();
        trace::write(&mut headers);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        if let Some(token) = &self.options.token {
            let shown = token.get().header().parse();
            let mut shown: tonic::metadata::AsciiMetadataValue =
                shown.map_err(|_| Status::internal("the token cannot be sent"))?;
            shown.set_sensitive(true);
            request.metadata_mut().insert("authorization", shown);
        }
        Ok(request)
    }
}

/// A connection that broke in the middle, as when the service is stopped: tonic knows no code for
/// it. Whoever asked may ask again.
fn lost(status: Status) -> Status {
    let is_ours = status.source().is_some_and(<dyn Error>::is::<tonic::transport::Error>);
    if status.code() == Code::Unknown && is_ours {
        Status::unavailable("the connection broke")
    } else {
        status
    }
}
