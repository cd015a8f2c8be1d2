//! The history service, as a client sees it. Every call has a deadline, which the service is
//! told; the connection is made when it is first needed, and again when it breaks.

use std::time::Duration;

use tokio::time;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

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

/// What may be under way at once: a whole answer, so that none waits for permission to go on; and
/// several of them on the connection.
const STREAM_WINDOW: u32 = 9 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

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
}

impl History {
    /// Connects to nothing yet.
    pub(crate) fn new(address: Uri, request_timeout: Duration) -> Self {
        let channel = Endpoint::from(address)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_lazy();
        Self {
            history: HistoryServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            health: HealthClient::new(channel),
            request_timeout,
        }
    }

    pub(crate) async fn backfill(
        &self,
        request: BackfillRequest,
    ) -> Result<BackfillResponse, Status> {
        let mut history = self.history.clone();
        within(
            self.request_timeout,
            request,
            |request| async move { history.backfill(request).await },
        )
        .await
    }

    pub(crate) async fn get_missing_events(
        &self,
        request: GetMissingEventsRequest,
    ) -> Result<GetMissingEventsResponse, Status> {
        let mut history = self.history.clone();
        within(self.request_timeout, request, |request| async move {
            history.get_missing_events(request).await
        })
        .await
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
    match time::timeout(deadline, call(request)).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
