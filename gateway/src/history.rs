//! The history service, as a client sees it. Every call has a deadline, which the service is
//! told; the connection is made when it is first needed, and again when it breaks.

use std::{error::Error, mem, time::Duration};

use backscroll_telemetry::trace;
use tokio::time::{self, Instant};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::metrics::Metrics;
use crate::proto::v1::{
    BackfillRequest, BackfillResponse, GetMissingEventsRequest, GetMissingEventsResponse,
    history_service_client::HistoryServiceClient,
    history_service_server::SERVICE_NAME as HISTORY_SERVICE,
};

/// What one answer may hold: the most PDUs, each of the most bytes, and room for ids and framing.
/// tonic's own limit, 4 MiB, is 63 such PDUs.
const MAX_PDUS: usize = 100;
const MAX_PDU_BYTES: usize = 65_536;
const SLACK_BYTES: usize = 2 * 1024 * 1024;
const MAX_ANSWER_BYTES: usize = MAX_PDUS * MAX_PDU_BYTES + SLACK_BYTES;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that has lost its other end is noticed after the sum of the two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than a prober's patience.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct History {
    history: HistoryServiceClient<Channel>,
    health: HealthClient<Channel>,
    request_timeout: Duration,
    metrics: Metrics,
}

impl History {
    /// Connects to nothing yet.
    pub(crate) fn new(address: Uri, request_timeout: Duration, metrics: Metrics) -> Self {
        let channel = Endpoint::from(address)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        Self {
            history: HistoryServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            health: HealthClient::new(channel),
            request_timeout,
            metrics,
        }
    }

    pub(crate) async fn backfill(
        &self,
        request: BackfillRequest,
    ) -> Result<BackfillResponse, Status> {
        let mut history = self.history.clone();
        let call = |request| async move { history.backfill(request).await };
        self.counted("Backfill", within(self.request_timeout, request, call)).await
    }

    pub(crate) async fn get_missing_events(
        &self,
        request: GetMissingEventsRequest,
    ) -> Result<GetMissingEventsResponse, Status> {
        let mut history = self.history.clone();
        let call = |request| async move { history.get_missing_events(request).await };
        self.counted("GetMissingEvents", within(self.request_timeout, request, call)).await
    }

    async fn counted<A>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Status> {
        let started = Instant::now();
        let answer = call.await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.called(method, code, started.elapsed());
        answer
    }

    /// Whether the service says of itself that it answers.
    pub(crate) async fn is_serving(&self) -> bool {
        let mut health = self.health.clone();
        let request = HealthCheckRequest { service: HISTORY_SERVICE.to_owned() };
        let answer =
            within(HEALTH_TIMEOUT, request, |request| async move { health.check(request).await })
                .await;
        answer.is_ok_and(|answer| answer.status() == ServingStatus::Serving)
    }
}

/// Calls with a deadline that both ends keep: the service may be too far gone to keep it.
async fn within<Q, A, F>(
    deadline: Duration,
    message: Q,
    call: impl FnOnce(Request<Q>) -> F,
) -> Result<A, Status>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let mut headers = mem::take(request.metadata_mut()).into_headers();
    trace::write(&mut headers);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    match time::timeout(deadline, call(request)).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(lost),
        Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
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
