//! gRPC clients of a running service.

use std::time::Duration;

use backscroll::{
    ingest::{NewEvent, Verdict},
    proto::v1::{
        self as pb, history_service_client::HistoryServiceClient,
        ingest_service_client::IngestServiceClient, key_service_client::KeyServiceClient,
    },
};
use backscroll_testkit::{Room, within_async};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use super::process::Process;

/// How long a stream may take to end.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) history: HistoryServiceClient<Channel>,
    pub(crate) ingest: IngestServiceClient<Channel>,
    pub(crate) keys: KeyServiceClient<Channel>,
    health: HealthClient<Channel>,
}

impl Clients {
    pub(crate) async fn connect(service: &Process) -> Self {
        Self::over(Channel::from_shared(service.url()).unwrap().connect().await.unwrap())
    }

    /// Clients that connect when they are used.
    pub(crate) fn at(url: &str) -> Self {
        Self::over(Channel::from_shared(url.to_owned()).unwrap().connect_lazy())
    }

    pub(crate) fn over(channel: Channel) -> Self {
        Self {
            history: HistoryServiceClient::new(channel.clone()),
            ingest: IngestServiceClient::new(channel.clone()),
            keys: KeyServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
        }
    }

    /// Appends events on one stream; returns all responses.
    pub(crate) async fn append(
        &mut self,
        requests: Vec<pb::AppendEventsRequest>,
    ) -> Result<Vec<pb::AppendEventsResponse>, Status> {
        let requests = tokio_stream::iter(requests);
        read_to_end(self.ingest.append_events(requests).await?.into_inner()).await
    }

    /// The stored events among some ids. Repeats the request until every id was processed.
    pub(crate) async fn events(
        &mut self,
        room_id: &str,
        mut event_ids: &[String],
    ) -> Result<Vec<pb::RoomEvent>, Status> {
        let mut events = Vec::new();
        while !event_ids.is_empty() {
            let request = pb::BatchGetEventsRequest {
                room_id: room_id.to_owned(),
                event_ids: event_ids.to_vec(),
            };
            let answer = self.history.batch_get_events(request).await?.into_inner();
            assert!(answer.processed_count > 0);
            event_ids = &event_ids[usize::try_from(answer.processed_count).unwrap()..];
            events.extend(answer.events);
        }
        Ok(events)
    }

    /// The health of one service, of the whole process if the name is empty, or what a probe asks.
    pub(crate) async fn health(&mut self, service: &str) -> ServingStatus {
        let service = match service {
            "" | "liveness" | "startup" => service.to_owned(),
            name => format!("backscroll.history.v1.{name}"),
        };
        self.health.check(HealthCheckRequest { service }).await.unwrap().into_inner().status()
    }

    /// The summary of a room and all of its events.
    pub(crate) async fn room(
        &mut self,
        room_id: &str,
    ) -> Result<(pb::GetRoomResponse, Vec<pb::RoomEvent>), Status> {
        let room_id = room_id.to_owned();
        let room = self.history.get_room(pb::GetRoomRequest { room_id: room_id.clone() }).await?;
        let (mut events, mut page_token) = (Vec::new(), String::new());
        loop {
            let room_id = room_id.clone();
            let request = pb::ListEventsRequest {
                room_id,
                page_size: 1_000,
                page_token,
                max_append_number: 0,
            };
            let page = self.history.list_events(request).await?.into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return Ok((room.into_inner(), events));
            }
            page_token = page.next_page_token;
        }
    }
}

/// Reads a stream to its end; the error if it ends with one.
pub(crate) async fn read_to_end<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let read = async {
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    };
    within_async(PATIENCE, "the stream ends", read).await
}

/// The request that appends an event as accepted.
pub(crate) fn request(room: &Room, pdu: &str) -> pb::AppendEventsRequest {
    pb::AppendEventsRequest {
        room_id: room.room_id.clone(),
        room_version: room.version.as_str().to_owned(),
        pdu: pdu.to_owned().into(),
        ..pb::AppendEventsRequest::default()
    }
}

/// The request that appends an event as it is.
pub(crate) fn request_of(event: &NewEvent<'_>) -> pb::AppendEventsRequest {
    let (rejected, soft_failed) =
        (event.verdict == Verdict::Rejected, event.verdict == Verdict::SoftFailed);
    pb::AppendEventsRequest {
        kept: String::new(),
        replace: 0,
        room_id: event.room_id.to_owned(),
        room_version: event.room_version.to_owned(),
        event_id: event.event_id.to_owned(),
        pdu: event.pdu.to_vec().into(),
        verdict: verdict(rejected, soft_failed).into(),
        outlier: event.outlier,
        state_after: event.state_after.to_vec(),
        arrival: event.arrival,
    }
}

/// The verdict with these two properties.
pub(crate) fn verdict(rejected: bool, soft_failed: bool) -> pb::Verdict {
    match (rejected, soft_failed) {
        (true, _) => pb::Verdict::Rejected,
        (false, true) => pb::Verdict::SoftFailed,
        (false, false) => pb::Verdict::Accepted,
    }
}

/// The code of a status and its reason; an empty reason if it has none.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    assert!(info.as_ref().is_none_or(|it| it.domain == "backscroll.history.v1"));
    (status.code(), info.map(|it| it.reason).unwrap_or_default())
}
